"""Tables as assets, by dlt: the landed partitions of a collection, each replaced in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import Field, field_validator, model_validator

from keen_pipeline.collection import Collection
from keen_pipeline.collections_file import check_collection
from keen_pipeline.defs.assets.one_by_one import one_by_one
from keen_pipeline.defs.io_managers import KeenReader
from keen_pipeline.defs.names import Names, key_of
from keen_pipeline.defs.partitions import fitting, when_landed
from keen_pipeline.defs.resources import resolved
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.readers.types import TYPES, check_types
from keen_pipeline.scope import DEFAULT_NAME
from keen_pipeline.tables import LoadedPartition, TableLoader, TablePlace, place_of_destination, place_of_url
from keen_pipeline.tables.names import check_table_name, table_name

# dlt's destinations that were given as objects, by the word that stands for them in the resource: Dagster keeps values only.
_destinations: dict[str, Any] = {}
DATABASE = "keen_database"


class TableDatabase(dg.ConfigurableResource[TablePlace]):
    """The database of table assets: a SQLAlchemy `url`, or a dlt `destination`."""

    url: str | None = Field(
        default=None,
        repr=False,
        description="a SQLAlchemy URL, best as dg.EnvVar: postgresql://..., sqlite:///warehouse.db, duckdb:///...",
    )
    destination: Any = Field(
        default=None, repr=False, description="a dlt destination, or the name of one that dlt finds the credentials of by itself"
    )
    schema_name: str | None = Field(default=None, description="the database's schema, dlt's dataset; unset: its default")

    @field_validator("destination", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if value is None or isinstance(value, (str, Mapping)):  # a mapping is what Dagster makes of a dg.EnvVar
            return value
        word = f"object {id(value)}"
        _destinations[word] = value
        return word

    @model_validator(mode="after")
    def _one_of_them(self) -> "TableDatabase":
        if (self.url is None) == (self.destination is None):
            raise ValueError("TableDatabase takes either url or destination")
        return self

    def open(self) -> TablePlace:
        """The place of the tables. Raises ConfigurationError for a URL or a destination that is none."""
        if self.url is not None:
            return place_of_url(self.url.strip(), self.schema_name)
        destination = resolved(self.destination, "TableDatabase: destination")
        return place_of_destination(_destinations.get(destination, destination), self.schema_name)


def table_asset(
    collection: Collection,
    *,
    table: str | None = None,
    types: Mapping[str, str] | None = None,
    definitions: str = DEFAULT_NAME,
    asset_key: dg.AssetKey | Sequence[str] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    key: dg.AssetKey | None = None,
    group_name: str | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
) -> dg.AssetsDefinition:
    """An asset that loads the landed partitions of `collection` into a table; it needs the resource `keen_database`
    (a TableDatabase) and the reader of the definitions.

    `table`: its name, the collection's unless given, with a digest if that can't be a table's. Several collections may share one:
    the column `keen_source` keeps their rows apart. `types`: of properties, as `{"body:id": "int"}`: num, int, bool, datetime,
    string or bytes; else the ledger's. `key`: the asset's, `["keen_tables", <table>]` unless given, and
    `["shop_tables", <table>]` of the definitions `shop`.
    `automation_condition`: unless given, a partition is loaded when it has landed, or landed again, and its blocking checks passed.
    A run over a range of partitions loads one after the other; if one can't be loaded, the others are, and the run fails.
    `definitions`: the name of those whose collection it is; `asset_key`, `partitions_def`: of its files, if they are others.
    Raises InvalidInputError for a name that can't be a table's, and for partitions of another granularity or zone.

    >>> asset = table_asset(Collection("purchases", "2026-01-01"))
    >>> asset.key.to_user_string()
    'keen_tables/purchases'
    """
    check_collection(collection)
    name = table_name(collection.name) if table is None else check_table_name(table)
    wanted = _checked(collection.name, types or {})
    names = Names(definitions)
    upstream = key_of(asset_key) if asset_key is not None else names.asset_key(collection.name)
    target = key or dg.AssetKey([names.tables, name])
    condition = automation_condition or (when_landed() & dg.AutomationCondition.all_deps_blocking_checks_passed())

    @dg.asset(
        key=target,
        deps=[upstream],
        partitions_def=fitting(collection, partitions_def),
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=condition,
        group_name=group_name or definitions,
        required_resource_keys={names.reader, DATABASE},
        kinds={"sql"},
        description=f"The landed events of {collection.name} in the table {name}.",
    )
    def load_table(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[None]]:
        reader: KeenReader = getattr(context.resources, names.reader)
        database: TableDatabase = getattr(context.resources, DATABASE)
        source = upstream.to_user_string()
        loader = TableLoader(database.open(), reader.open(collection), collection.name, name, source=source, types=wanted)
        yield from one_by_one(context, target, "loaded", lambda partition: _metadata(name, loader.load(partition)))

    return load_table


def _checked(collection: str, types: Mapping[str, str]) -> Mapping[str, str]:
    check_types(collection, types)
    if "decimal" in types.values():
        offered = ", ".join(word for word in TYPES if word != "decimal")
        raise InvalidInputError(f"{collection}: types: a table's column can't be decimal, only {offered}", field="types")
    return types


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
