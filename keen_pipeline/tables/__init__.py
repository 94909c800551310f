"""Landed partitions in tables, by dlt. No Dagster in it."""

from keen_pipeline.tables.load import LoadedPartition, TableLoader
from keen_pipeline.tables.place import TablePlace, place_of_destination, place_of_url

__all__ = ["LoadedPartition", "TableLoader", "TablePlace", "place_of_destination", "place_of_url"]
