"""Dagster: resources, ops, jobs, the schedule, the sensor, assets, and the function that builds them all."""
