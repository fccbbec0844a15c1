"""Take backdoors out of trained image classifiers, find them, and measure what works."""
