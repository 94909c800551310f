"""Landed partitions in tables of any SQLAlchemy database: each replaced in one transaction; columns are added, types widened."""

from __future__ import annotations

from keen_pipeline.tables.load import LoadedPartition, TableLoader
from keen_pipeline.tables.names import PARTITION_COLUMN

__all__ = ["PARTITION_COLUMN", "LoadedPartition", "TableLoader"]
