"""Pick the data."""
