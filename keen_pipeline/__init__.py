"""keen_pipeline: whole, proven files of Keen event data, orchestrated by Dagster.

The names below are loaded at their first use, so that `import keen_pipeline` costs nothing and needs no Dagster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keen_pipeline.collection import Collection
    from keen_pipeline.defs.assets.collections import keen_assets
    from keen_pipeline.defs.assets.lists import unique_values_asset
    from keen_pipeline.defs.assets.tables import TableDatabase, table_asset
    from keen_pipeline.defs.build import build_keen_definitions
    from keen_pipeline.defs.component import KeenExtractionComponent
    from keen_pipeline.defs.io_managers import KeenIOManager, KeenReader
    from keen_pipeline.defs.ops import materialize_csv, submit_extraction
    from keen_pipeline.defs.ops import materialize_csv as materialize_csvs
    from keen_pipeline.defs.ops import submit_extraction as submit_extractions
    from keen_pipeline.defs.partitions import partitions_definition
    from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource
    from keen_pipeline.defs.sensors.notifications import KeenNotifications
    from keen_pipeline.defs.translator import KeenTranslator, KeenTranslatorData
    from keen_pipeline.filters import Filter
    from keen_pipeline.timeframe import Timeframe

__version__ = "0.2.0"

_HOMES = {
    "Collection": "keen_pipeline.collection:Collection",
    "CsvDestination": "keen_pipeline.defs.resources:CsvDestination",
    "ExtractionLedger": "keen_pipeline.defs.resources:ExtractionLedger",
    "Filter": "keen_pipeline.filters:Filter",
    "KeenExtractionComponent": "keen_pipeline.defs.component:KeenExtractionComponent",
    "KeenIOManager": "keen_pipeline.defs.io_managers:KeenIOManager",
    "KeenReader": "keen_pipeline.defs.io_managers:KeenReader",
    "KeenNotifications": "keen_pipeline.defs.sensors.notifications:KeenNotifications",
    "KeenResource": "keen_pipeline.defs.resources:KeenResource",
    "KeenTranslator": "keen_pipeline.defs.translator:KeenTranslator",
    "KeenTranslatorData": "keen_pipeline.defs.translator:KeenTranslatorData",
    "TableDatabase": "keen_pipeline.defs.assets.tables:TableDatabase",
    "Timeframe": "keen_pipeline.timeframe:Timeframe",
    "build_keen_definitions": "keen_pipeline.defs.build:build_keen_definitions",
    "keen_assets": "keen_pipeline.defs.assets.collections:keen_assets",
    "partitions_definition": "keen_pipeline.defs.partitions:partitions_definition",
    # The ops, under the singular name Dagster shows and under the plural of the jobs made of them.
    "materialize_csv": "keen_pipeline.defs.ops:materialize_csv",
    "materialize_csvs": "keen_pipeline.defs.ops:materialize_csv",
    "submit_extraction": "keen_pipeline.defs.ops:submit_extraction",
    "submit_extractions": "keen_pipeline.defs.ops:submit_extraction",
    "table_asset": "keen_pipeline.defs.assets.tables:table_asset",
    "unique_values_asset": "keen_pipeline.defs.assets.lists:unique_values_asset",
}

__all__ = [
    "Collection",
    "CsvDestination",
    "ExtractionLedger",
    "Filter",
    "KeenExtractionComponent",
    "KeenIOManager",
    "KeenNotifications",
    "KeenReader",
    "KeenResource",
    "KeenTranslator",
    "KeenTranslatorData",
    "TableDatabase",
    "Timeframe",
    "build_keen_definitions",
    "keen_assets",
    "materialize_csv",
    "materialize_csvs",
    "partitions_definition",
    "submit_extraction",
    "submit_extractions",
    "table_asset",
    "unique_values_asset",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
