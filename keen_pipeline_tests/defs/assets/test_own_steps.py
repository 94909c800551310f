"""Steps of users' own by `@keen_assets`: resources as parameters, or from the context."""

from collections.abc import Sequence

import dagster as dg
import pytest

from keen_pipeline import Collection, CsvDestination, ExtractionLedger, KeenResource, keen_assets

PURCHASES = Collection(name="purchases", start_date="2026-01-01")


class Word(dg.Config):
    word: str = "none"


def run(asset: dg.AssetsDefinition, word: str | None = None) -> dg.ExecuteInProcessResult:
    resources = {
        "keen": KeenResource(base_url="http://127.0.0.1:9", project_id="ours"),
        "keen_ledger": ExtractionLedger(url="sqlite://"),
        "keen_destination": CsvDestination(uri="/nowhere"),
        "keen_io_manager": dg.mem_io_manager,
    }
    config = {"ops": {asset.op.name: {"config": {"word": word}}}} if word is not None else None
    return dg.materialize([asset], resources=resources, partition_key="2026-01-01", run_config=config)


@pytest.mark.parametrize("word", [None, "hello"])
def test_resources_and_config_are_parameters(word: str | None) -> None:
    seen = []

    @keen_assets(collections=[PURCHASES])
    def step(context: dg.AssetExecutionContext, keen: KeenResource, keen_destination: CsvDestination, config: Word):
        seen.append((context.partition_key, keen.project_id, keen_destination.uri, config.word))
        yield dg.MaterializeResult(asset_key=["keen", "purchases"])

    assert run(step, word).success
    assert seen == [("2026-01-01", "ours", "/nowhere", word or "none")]


def test_resources_come_from_the_context() -> None:
    seen = []

    @keen_assets(collections=[PURCHASES])
    def step(context: dg.AssetExecutionContext):
        seen.append(context.resources.keen.project_id)
        yield dg.MaterializeResult(asset_key=["keen", "purchases"])

    assert run(step).success
    assert seen == ["ours"]


def test_a_step_of_many_collections_has_a_name_that_every_database_can_index() -> None:
    many = [Collection(f"collection_{number}", "2026-01-01") for number in range(300)]

    def name_of(collections: Sequence[Collection]) -> str:
        @keen_assets(collections=collections)
        def step(context: dg.AssetExecutionContext, keen: KeenResource):
            yield from keen.run(context)

        return step.op.name

    assert name_of(many[:2]) == "keen__collection_0__keen__collection_1"
    assert len(name_of(many)) < 1000
    assert name_of(many) != name_of(many[:299])
