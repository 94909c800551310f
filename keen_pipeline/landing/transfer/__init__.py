"""Bytes of a result on their way: downloaded, taken in, encoded."""
