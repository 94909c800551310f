"""Small mutations of the package, and whether its tests catch them: `python -m keen_pipeline_tests.mutants [GROUP...]`.

A group is a module below `groups` with `MUTANTS`, a list of (file, old text, new text, pytest's arguments). The old text stands in
the file exactly once.
"""
