"""Lists of what brings a file and reads it."""
