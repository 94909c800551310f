"""Lists of the core."""
