"""How a collection becomes an asset spec; subclass it to have your own keys, groups, owners, tags, kinds or conditions.

>>> import dagster as dg
>>> from keen_pipeline import Collection, KeenTranslator, build_keen_definitions
>>> class Ours(KeenTranslator):
...     def get_asset_spec(self, data):
...         return super().get_asset_spec(data).replace_attributes(owners=["team:growth"])
>>> defs = build_keen_definitions([Collection(name="purchases", start_date="2026-01-01")], translator=Ours())
>>> defs.resolve_all_asset_specs()[0].owners
['team:growth']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.collections_file import collection_to_wire, parse_collections
from keen_pipeline.defs.names import DEFINITIONS_TAG, Names
from keen_pipeline.defs.partitions import fitting, grain, partitions_definition
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.scope import DEFAULT_NAME

COLLECTION_METADATA = "keen/collection"
EXTRACTION_METADATA = "keen/extraction"
"""How a collection is extracted, as in the collections file: what a step of ours goes by, and what the asset's page shows."""


@dataclass(frozen=True)
class KeenTranslatorData:
    """What a spec is made of. `name`: of the definitions. `others`: collections that are backfilled together with it, of which the
    earliest is enough."""

    collection: Collection
    name: str = DEFAULT_NAME
    others: Sequence[Collection] = field(default=(), repr=False)

    @property
    def partitions_def(self) -> dg.TimeWindowPartitionsDefinition:
        """The partitions of the asset."""
        return partitions_definition(self.collection, together_with=self.others)


class KeenTranslator:
    """Makes the asset spec of each collection. `group_name`: of all of them, by default the definitions' name."""

    def __init__(self, group_name: str | None = None) -> None:
        self.group_name = group_name

    def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
        """The spec of a collection's files, complete with partitions and I/O manager key.

        It serves another code location, or a unit test, as it stands. Call it in your own and answer what `replace_attributes` or
        `merge_attributes` give; the key may be another one.
        """
        collection, names = data.collection, Names(data.name)
        what = f"one whole {collection.encoding.value} file a partition"
        spec = dg.AssetSpec(
            names.asset_key(collection.name),
            description=f"{collection.description or f'Events of the Keen collection {collection.name}.'}\n\n"
            f"Extracted by the job {names.submit_job}: {what}. Landed by {names.materialize_job}.",
            group_name=self.group_name or data.name,
            kinds={"keen", "parquet" if collection.encoding is Encoding.PARQUET else "csv"},
            owners=list(collection.owners),
            tags=dict(collection.tags),
            metadata=_metadata(data),
            partitions_def=data.partitions_def,
            skippable=True,
        )
        return spec.with_io_manager_key(names.io_manager)


def _metadata(data: KeenTranslatorData) -> Mapping[str, Any]:
    wire = collection_to_wire(data.collection)
    return {
        COLLECTION_METADATA: data.collection.name,
        EXTRACTION_METADATA: dg.MetadataValue.json(wire),
        DEFINITIONS_TAG: data.name,
        "keen/timezone": data.collection.timezone,
    }


def plain(value: Any) -> Any:
    """A value of metadata, whether Dagster has wrapped it or not."""
    return value.value if isinstance(value, dg.MetadataValue) else value


def collection_of(metadata: Mapping[str, Any]) -> Collection | None:
    """The collection of an asset of ours as it is configured, None if the asset is somebody else's."""
    wire = plain(metadata.get(EXTRACTION_METADATA))
    return parse_collections([wire])[0] if wire is not None else None


def specs_of(translator: KeenTranslator, collections: Sequence[Collection], name: str) -> dict[str, dg.AssetSpec]:
    """The spec of each collection, by name, with what the pipeline needs in it.

    Raises InvalidInputError if two collections would be one asset, one of them has another's partitions, or none has been made.
    """
    earliest = {grain(c): c for c in sorted(collections, key=lambda c: c.start, reverse=True)}
    specs: dict[str, dg.AssetSpec] = {}
    seen: dict[dg.AssetKey, str] = {}
    for collection in collections:
        data = KeenTranslatorData(collection, name, [earliest[grain(collection)]])
        given: object = translator.get_asset_spec(data)
        if not isinstance(given, dg.AssetSpec):  # nothing, if its `return` is forgotten
            raise InvalidInputError(
                f"{collection.name}: get_asset_spec must return an AssetSpec, not {given!r}", field="translator"
            )
        spec = given.merge_attributes(metadata=_metadata(data))
        partitions = fitting(collection, spec.partitions_def or data.partitions_def)
        spec = spec.replace_attributes(skippable=True, partitions_def=partitions)
        specs[collection.name] = spec.with_io_manager_key(Names(name).io_manager)
        other = seen.setdefault(spec.key, collection.name)
        if other != collection.name:
            raise InvalidInputError(
                f"collections {other!r} and {collection.name!r} would be one asset, {spec.key.to_user_string()}; give one of them "
                "another key by a KeenTranslator",
                field="collections",
            )
    return specs
