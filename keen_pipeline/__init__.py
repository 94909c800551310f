"""keen_pipeline: whole, proven files of Keen event data, orchestrated by Dagster.

The names below are loaded at their first use, so that `import keen_pipeline` costs nothing and needs no Dagster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keen_pipeline.collection import Collection as Collection
    from keen_pipeline.defs.assets.collections import keen_assets as keen_assets
    from keen_pipeline.defs.assets.lists import unique_values_asset as unique_values_asset
    from keen_pipeline.defs.assets.tables import TableDatabase as TableDatabase
    from keen_pipeline.defs.assets.tables import table_asset as table_asset
    from keen_pipeline.defs.build import build_keen_definitions as build_keen_definitions
    from keen_pipeline.defs.component import KeenExtractionComponent as KeenExtractionComponent
    from keen_pipeline.defs.io_managers import KeenIOManager as KeenIOManager
    from keen_pipeline.defs.io_managers import KeenReader as KeenReader
    from keen_pipeline.defs.ops import materialize_csv as materialize_csv
    from keen_pipeline.defs.ops import materialize_csvs as materialize_csvs
    from keen_pipeline.defs.ops import submit_extraction as submit_extraction
    from keen_pipeline.defs.ops import submit_extractions as submit_extractions
    from keen_pipeline.defs.partitions import partitions_definition as partitions_definition
    from keen_pipeline.defs.resources import CsvDestination as CsvDestination
    from keen_pipeline.defs.resources import ExtractionLedger as ExtractionLedger
    from keen_pipeline.defs.resources import KeenResource as KeenResource
    from keen_pipeline.defs.sensors.notifications import KeenNotifications as KeenNotifications
    from keen_pipeline.defs.translator import KeenTranslator as KeenTranslator
    from keen_pipeline.defs.translator import KeenTranslatorData as KeenTranslatorData
    from keen_pipeline.filters import Filter as Filter
    from keen_pipeline.timeframe import Timeframe as Timeframe

__version__ = "0.2.0"

_HOMES = {
    "Collection": "collection",
    "CsvDestination": "defs.resources",
    "ExtractionLedger": "defs.resources",
    "Filter": "filters",
    "KeenExtractionComponent": "defs.component",
    "KeenIOManager": "defs.io_managers",
    "KeenNotifications": "defs.sensors.notifications",
    "KeenReader": "defs.io_managers",
    "KeenResource": "defs.resources",
    "KeenTranslator": "defs.translator",
    "KeenTranslatorData": "defs.translator",
    "TableDatabase": "defs.assets.tables",
    "Timeframe": "timeframe",
    "build_keen_definitions": "defs.build",
    "keen_assets": "defs.assets.collections",
    "materialize_csv": "defs.ops",
    "materialize_csvs": "defs.ops",
    "partitions_definition": "defs.partitions",
    "submit_extraction": "defs.ops",
    "submit_extractions": "defs.ops",
    "table_asset": "defs.assets.tables",
    "unique_values_asset": "defs.assets.lists",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
