"""What every room stands on: images, runs, declarations, measures, records, errors."""
