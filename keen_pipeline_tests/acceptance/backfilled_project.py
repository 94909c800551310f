"""A user's code location: the collections of the configured file, and downstream of each an asset that counts its events."""

import dagster as dg

from keen_pipeline import Collection, CsvDestination, build_keen_definitions
from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.defs.partitions import is_before_start, partitions_definition
from keen_pipeline.settings import Settings


def counted(collection: Collection, others: list[Collection]) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"{collection.name}_counted",
        deps=[["keen", collection.name]],
        partitions_def=partitions_definition(collection, together_with=others),
        backfill_policy=dg.BackfillPolicy.single_run(),
        required_resource_keys={"keen_destination"},
    )
    def count(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        destination: CsvDestination = context.resources.keen_destination
        files = destination.open()
        for day in context.partition_keys:
            events = 0
            if not is_before_start(collection, day):
                with files.open(files.target_uri(collection.name, day)) as landed:
                    events = len(landed.read().splitlines()) - 1
            context.add_asset_metadata({"events": events}, partition_key=day)
        return dg.MaterializeResult()

    return count


def definitions() -> dg.Definitions:
    file = Settings.from_environment().collections_file
    assert file is not None
    collections = read_collections_file(file)
    downstream = [counted(collection, collections) for collection in collections]
    return dg.Definitions.merge(
        build_keen_definitions(collections, running=True),
        dg.Definitions(assets=downstream, executor=dg.in_process_executor),
    )


defs = definitions()
