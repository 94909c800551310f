"""`python -m keen_pipeline`."""

from keen_pipeline.cli import main

main()
