"""keen_pipeline: whole, proven files of Keen event data, orchestrated by Dagster."""
