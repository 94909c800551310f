"""What the service answers, by resource; each module ends with its part of the table of operations."""
