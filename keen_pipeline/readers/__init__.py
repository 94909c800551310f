"""Landed partitions as DataFrames, Arrow tables, DuckDB relations or URIs. No Dagster in it."""

from keen_pipeline.readers.reader import LandedReader, Missing
from keen_pipeline.readers.types import TYPES

__all__ = ["TYPES", "LandedReader", "Missing"]
