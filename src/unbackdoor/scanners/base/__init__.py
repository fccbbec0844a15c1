"""What scanners share: the role, the last layer, the calibration and the verdict."""
