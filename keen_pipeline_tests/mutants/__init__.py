"""Mutations of our own: each breaks one line that a test has to miss. Lists by area."""
