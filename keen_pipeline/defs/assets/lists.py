"""Lists, the second kind of extraction: the unique values of a property as an asset, for each partition or of all events."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection, check_listed
from keen_pipeline.collections_file import check_collection
from keen_pipeline.defs.assets.one_by_one import one_by_one
from keen_pipeline.defs.io_managers import UNIQUE_METADATA
from keen_pipeline.defs.names import Names, key_of
from keen_pipeline.defs.partitions import fitting, is_before_start, when_landed
from keen_pipeline.defs.resources import pipeline_of
from keen_pipeline.defs.translator import COLLECTION_METADATA
from keen_pipeline.errors import PermanentError
from keen_pipeline.landing.layout import LATEST
from keen_pipeline.partitions import partition_for_key
from keen_pipeline.pipeline import Pipeline
from keen_pipeline.pipeline.told import shortened
from keen_pipeline.scope import DEFAULT_NAME

PREVIEWED = 20
PREVIEWED_CHARACTERS = 200


# By eager() a list of all events would wait for each partition, and those before an installation never land.
_WHEN_ANY_LANDED = dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())


def unique_values_asset(
    collection: Collection,
    property_name: str,
    *,
    partitioned: bool = True,
    name: str = DEFAULT_NAME,
    asset_key: dg.AssetKey | Sequence[str] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    group_name: str | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
) -> dg.AssetsDefinition:
    """The asset `[name, <collection>, "unique", <property>]`: the unique values of a property as a JSON file at the destination.

    The service finds them (`_select_unique`), of the events that pass the collection's filters. `partitioned`: a list for each
    partition of the collection; else one list of all events, replaced by each run. A parameter of an asset downstream gets a
    `list`, of several partitions a dictionary of lists. `automation_condition`: unless given, a list is recreated when the
    partition's file, or one of all, has landed.

    `name`: of the definitions whose collection it is. `asset_key`: of the collection's files, if a translator changed it.
    `partitions_def`: of the list, by default the collection's own.

    Raises InvalidInputError if the collection masks the property, whose values must not be written anywhere, or if
    `partitions_def` is of another granularity or zone than the collection.

    >>> unique_values_asset(Collection("purchases", "2026-01-01"), "body:currency").key.to_user_string()
    'keen/purchases/unique/body:currency'
    """
    check_collection(collection)
    check_listed(collection.name, collection.mask, property_name)
    names = Names(name)
    files = key_of(asset_key) if asset_key is not None else names.asset_key(collection.name)
    key = dg.AssetKey([*files.path, "unique", property_name])
    values_of = dg.AssetOut(
        key=key,
        dagster_type=dg.Nothing,
        io_manager_key=names.io_manager,
        group_name=group_name or name,
        kinds={"json"},
        automation_condition=automation_condition or (when_landed() if partitioned else _WHEN_ANY_LANDED),
        metadata={COLLECTION_METADATA: collection.name, UNIQUE_METADATA: property_name},
        description=f"The unique values of {property_name} among the events of {collection.name}.",
    )

    @dg.multi_asset(
        name=names.step(f"{collection.name} {property_name}", prefix="list_"),
        outs={"values": values_of},
        deps=[files],
        partitions_def=fitting(collection, partitions_def) if partitioned else None,
        backfill_policy=dg.BackfillPolicy.single_run(),
        required_resource_keys=names.resources,
    )
    def list_values(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
        made = partial(_list, pipeline_of(context.resources, name), collection, property_name)
        if partitioned:
            # What says nothing of one partition, as a service that is away, would say so of each.
            yield from one_by_one(context, key, "listed", made, PermanentError)
        else:
            yield dg.MaterializeResult(asset_key=key, metadata=made(LATEST))

    return list_values


def _list(pipeline: Pipeline, collection: Collection, property_name: str, partition: str) -> dict[str, Any]:
    """Write the values of a partition, or of all events as LATEST; what is told of it."""
    values: list[Any] = []
    if partition == LATEST or not is_before_start(collection, partition):
        window = partition_for_key(collection, partition, pipeline.clock.now()).timeframe if partition != LATEST else None
        values = pipeline.api.select_unique(collection.name, property_name, window, collection.filters)
    return _written(pipeline.destination.write_list(collection.name, property_name, partition, values), values)


def _written(uri: str, values: list[Any]) -> dict[str, Any]:
    return {
        "keen/values": len(values),
        "keen/preview": dg.MetadataValue.json([_shown(value) for value in values[:PREVIEWED]]),
        "dagster/uri": dg.MetadataValue.url(uri) if "://" in uri else dg.MetadataValue.path(uri),
    }


def _shown(value: Any) -> Any:
    """A value, which may be as long as an event, or the beginning of its JSON."""
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= PREVIEWED_CHARACTERS else shortened(text, PREVIEWED_CHARACTERS)
