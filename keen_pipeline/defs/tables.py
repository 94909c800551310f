"""Tables of any SQLAlchemy database as assets: the landed partitions of a collection, each replaced in one transaction."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from keen_pipeline.collection import Collection
from keen_pipeline.defs.io_managers import KeenReader
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.defs.run import NO_SECOND_MATERIALIZATION
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.tables import LoadedPartition, TableLoader


class TableDatabase(dg.ConfigurableResource[None]):
    """The database of table assets."""

    url: str = Field(description="a SQLAlchemy URL, best as dg.EnvVar: postgresql://..., sqlite:///warehouse.db")
    schema_name: str | None = Field(default=None, description="the database's schema; unset: its default")


def table_asset(
    collection: Collection,
    *,
    table: str | None = None,
    key: dg.AssetKey | None = None,
    group_name: str = "keen",
    automation_condition: dg.AutomationCondition[Any] | None = None,
) -> dg.AssetsDefinition:
    """An asset that loads the landed partitions of `collection` into a table; it needs the resource `keen_database`.

    `table`: its name, the collection's unless given. `key`: the asset's, `["keen_tables", <table>]` unless given.
    `automation_condition`: unless given, a partition is loaded when it has landed, or landed anew, and its blocking checks passed.
    A run over a range of partitions loads one after the other; where one can't be loaded, the others are, and the run fails.

    >>> asset = table_asset(Collection("purchases", "2026-01-01"))
    >>> asset.key.to_user_string()
    'keen_tables/purchases'
    """
    name = table or collection.name
    target = key or dg.AssetKey(["keen_tables", name])
    condition = automation_condition or (
        dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
    )

    @dg.asset(
        key=target,
        deps=[Names("keen").asset_key(collection.name)],
        partitions_def=partitions_definition(collection),
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=condition,
        group_name=group_name,
        kinds={"sql"},
        description=f"The landed events of {collection.name} in the table {name}.",
    )
    def load_table(
        context: dg.AssetExecutionContext, keen_reader: KeenReader, keen_database: TableDatabase
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
        loader = TableLoader(keen_database.url, keen_reader.open(), collection.name, name, schema=keen_database.schema_name)
        failed: list[str] = []
        try:
            for partition in context.partition_keys:
                try:
                    loaded = loader.load(partition)
                except KeenPipelineError as error:
                    context.log.error("%s", error)  # noqa: TRY400 - the message says it; a stack would tell nothing more
                    failed.append(str(error))
                    continue
                yield dg.AssetMaterialization(target, partition=partition, metadata=_metadata(name, loaded))
        finally:
            loader.close()
        if failed:
            raise dg.Failure(f"{len(failed)} of {len(context.partition_keys)} partitions not loaded: " + " | ".join(failed))
        yield dg.MaterializeResult(metadata=NO_SECOND_MATERIALIZATION)

    return load_table


def _metadata(table: str, loaded: LoadedPartition) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": loaded.rows,
        "dagster/table_name": table,
        "keen/replaced_rows": loaded.replaced,
        "keen/loading_seconds": round(loaded.seconds, 3),
    }
    if loaded.added:
        metadata["keen/added_columns"] = dg.MetadataValue.json(list(loaded.added))
    if loaded.widened:
        metadata["keen/widened_columns"] = dg.MetadataValue.json(list(loaded.widened))
    return metadata
