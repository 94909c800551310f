"""Events in one folder of this machine."""
