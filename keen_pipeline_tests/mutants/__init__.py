"""Small faults made on purpose, by area; each names the tests that must fail then."""
