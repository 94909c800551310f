"""Landed partitions as inputs: an asset annotates what it wants, `purchases: pd.DataFrame`, and gets it."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from keen_pipeline.collection import Collection
from keen_pipeline.defs.resources import CsvDestination, ExtractionLedger, KeenResource, open_scope
from keen_pipeline.defs.translator import COLLECTION_METADATA, collection_of, plain
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.landing.layout import LATEST
from keen_pipeline.pipeline.freshness import todays_landings
from keen_pipeline.readers import LandedReader, Missing
from keen_pipeline.scope import DEFAULT_NAME
from keen_pipeline.settings import Settings

UNIQUE_METADATA = "keen/unique_property"


class KeenReader(dg.ConfigurableResource[LandedReader]):
    """Landed partitions for code of your own: `reader.load("purchases", ["2026-01-01"], pd.DataFrame)`.

    `missing`: what happens if a partition is not landed, `error` or `empty`. Keen itself is asked for nothing.
    """

    ledger: dg.ResourceDependency[ExtractionLedger]
    destination: dg.ResourceDependency[CsvDestination]
    keen: dg.ResourceDependency[KeenResource]
    name: str = Field(default=DEFAULT_NAME, description="of the definitions whose files these are")
    missing: Missing = Field(default=Missing.ERROR, description="if a partition is not landed: error, or empty")

    def open(self, collection: Collection | None = None) -> LandedReader:
        """The reader itself. `collection`: as it is configured today; what another configuration landed is refused then."""
        ledger = open_scope(self.keen, self.ledger, self.destination, name=self.name)
        mask_key = Settings.from_environment().mask_key
        wanted = None if collection is None else todays_landings(ledger, collection, mask_key=mask_key)
        return LandedReader(ledger, self.destination.open(), wanted)

    def load(self, collection: str, partition_keys: str | Sequence[str], kind: Any = None, **options: Any) -> Any:
        """As `LandedReader.load`, with this resource's `missing` unless told otherwise."""
        return self.open().load(collection, partition_keys, kind, **{"missing": self.missing, **options})


class KeenIOManager(dg.ConfigurableIOManager):
    """Loads the partitions of a collection's asset as the type that the downstream asset's parameter is annotated with.

    The input's metadata may say `columns` (a list), `types` (by column) and `missing` (`error` or `empty`): see
    `LandedReader.load`. It writes nothing.
    """

    reader: dg.ResourceDependency[KeenReader]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Refuses: the assets of collections land their files themselves, and nothing else belongs among them."""
        name = context.asset_key.to_user_string() if context.has_asset_key else context.name
        raise ConfigurationError(
            f"{name}: the I/O manager of Keen's assets only reads what Keen's assets landed; give this asset another io_manager_key"
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """The value. Raises as `LandedReader.load` does."""
        upstream = context.upstream_output.definition_metadata or {} if context.upstream_output is not None else {}
        collection = str(plain(upstream.get(COLLECTION_METADATA)) or context.asset_key.path[-1])
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else []
        if UNIQUE_METADATA in upstream:
            return self._lists(context, collection, str(plain(upstream[UNIQUE_METADATA])), keys or [LATEST])
        if not context.has_asset_partitions:  # all of them, or none, would be a guess
            raise InvalidInputError(f"{collection}: say which partition is to be loaded (partition_key)", field="partition")
        asked = context.definition_metadata or {}
        options = {name: plain(asked[name]) for name in ("columns", "types", "missing") if name in asked}
        # Of an asset that is not known here, as in another code location, every landing is good.
        reader = self.reader.open(collection_of(upstream))
        return reader.load(collection, keys, context.dagster_type.typing_type, **{"missing": self.reader.missing, **options})

    def _lists(self, context: dg.InputContext, collection: str, property_name: str, keys: list[str]) -> Any:
        """The unique values of a property: a list, or of several partitions a list by partition."""
        destination = self.reader.destination.open()
        try:
            lists = {key: destination.read_list(collection, property_name, key) for key in keys}
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"{collection}: the list of {property_name} is not there ({error}); "
                f"materialize {context.asset_key.to_user_string()}"
            ) from None
        return lists[keys[0]] if len(keys) == 1 else lists
