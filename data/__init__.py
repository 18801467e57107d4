"""Records, converters and the input pipeline."""
