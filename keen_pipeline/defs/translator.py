"""How a collection becomes an asset spec; subclass it to have your own groups, owners, tags, kinds or conditions.

>>> import dagster as dg
>>> from keen_pipeline import Collection, KeenTranslator, build_keen_definitions
>>> class Ours(KeenTranslator):
...     def asset_spec(self, collection):
...         return super().asset_spec(collection).replace_attributes(owners=["team:growth"])
>>> defs = build_keen_definitions([Collection(name="purchases", start_date="2026-01-01")], translator=Ours())
>>> defs.resolve_all_asset_specs()[0].owners
['team:growth']
"""

import dagster as dg

from keen_pipeline.defs.io_managers import COLLECTION_METADATA, IO_MANAGER_KEY
from keen_pipeline.defs.metadata import asset_key
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.collection import Collection, Encoding


class KeenTranslator:
    """Makes the asset spec of each collection. `group_name`: of all of them.

    The key and the partitions are fixed (`["keen", <collection>]`): ledger, sensor and checks know the asset by them.
    """

    def __init__(self, group_name: str = "keen") -> None:
        self.group_name = group_name

    def asset_spec(self, collection: Collection) -> dg.AssetSpec:
        """The spec of a collection's files. Call it in your own and answer what `replace_attributes` or `merge_attributes` give."""
        return dg.AssetSpec(
            asset_key(collection.name),
            description=collection.description
            or f"Events of the Keen collection {collection.name}, one whole {collection.encoding.value} file a partition.",
            group_name=self.group_name,
            kinds={"keen", "parquet" if collection.encoding is Encoding.PARQUET else "csv"},
            owners=list(collection.owners),
            tags=dict(collection.tags),
            metadata={"keen/timezone": collection.timezone},
        )


def translated(translator: KeenTranslator, collection: Collection) -> dg.AssetSpec:
    """The translator's spec with what the pipeline needs in it. Raises ConfigurationError where it changed the key."""
    spec = translator.asset_spec(collection)
    if spec.key != asset_key(collection.name):
        raise ConfigurationError(
            f"collection {collection.name}: its asset can't be called {spec.key.to_user_string()}; the key is "
            f"{asset_key(collection.name).to_user_string()}, by which ledger, sensor and checks know it"
        )
    needed = spec.merge_attributes(metadata={COLLECTION_METADATA: collection.name})
    return needed.replace_attributes(skippable=True).with_io_manager_key(IO_MANAGER_KEY)
