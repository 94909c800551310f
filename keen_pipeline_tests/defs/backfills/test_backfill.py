"""A range of partitions in one run, as the UI's backfill makes it; on a live service."""

from datetime import datetime, timedelta, timezone

import dagster as dg

from keen_pipeline import Collection, KeenTranslator, KeenTranslatorData
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace

BOTH = ["keen/purchases", "keen/logins"]
SKIP_LANDED = {"ops": {name: {"config": {"skip_landed": True}} for name in ("keen__purchases", "keen__logins")}}


def test_one_run_lands_a_range_of_two_collections_with_one_event_each(make_place: MakePlace) -> None:
    place = make_place()
    assert place.backfill(BOTH, DAYS[0], DAYS[3]).success
    assert place.materialized("keen/purchases") == list(DAYS)
    assert place.materialized("keen/logins") == list(DAYS)
    assert place.counts() == {"landed": 8}
    assert place.ledger.outbox() == []


def test_a_subset_of_the_collections_lands_alone(make_place: MakePlace) -> None:
    place = make_place()
    assert place.backfill(["keen/logins"], DAYS[0], DAYS[1]).success
    assert place.materialized("keen/purchases") == []
    assert place.materialized("keen/logins") == list(DAYS[:2])


def test_others_land_where_one_fails_and_the_next_run_redoes_only_the_missing_one(make_place: MakePlace) -> None:
    place = make_place(options=["--fail-extraction", "purchases@2026-01-02=3"])
    result = place.backfill(BOTH, DAYS[0], DAYS[3])
    assert not result.success
    message = place.failure(result)
    assert message.startswith("1 of 4 partitions failed\npurchases 2026-01-02: the service reports the extraction as failed")
    assert place.materialized("keen/purchases") == [d for d in DAYS if d != "2026-01-02"]
    before = {e.entry_id for e in place.ledger.entries(range(1, 100))}
    assert place.backfill(BOTH, DAYS[0], DAYS[3], SKIP_LANDED).success
    new = [e for e in place.ledger.entries(range(1, 100)) if e.entry_id not in before]
    assert [e.request.partition_key for e in new] == ["2026-01-02"]


def test_an_explicit_materialization_extracts_again_and_the_older_landing_is_superseded(make_place: MakePlace) -> None:
    place = make_place()
    place.backfill(["keen/purchases"], DAYS[0], DAYS[1])
    before = (place.root / "purchases" / f"{DAYS[0]}.csv").read_bytes()
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[1]).success
    assert place.counts() == {"landed": 2, "superseded": 2}
    assert (place.root / "purchases" / f"{DAYS[0]}.csv").read_bytes() == before


def test_a_downstream_asset_of_the_same_run_follows(make_place: MakePlace) -> None:
    place = make_place()
    seen: list[str] = []

    @dg.asset(
        deps=[dg.AssetKey(["keen", "purchases"])],
        partitions_def=dg.DailyPartitionsDefinition("2026-01-01"),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def downstream(context: dg.AssetExecutionContext) -> None:
        seen.extend(context.partition_keys)

    place.defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[downstream]))
    assert place.backfill(["keen/purchases", "downstream"], DAYS[0], DAYS[2]).success
    assert seen == list(DAYS[:3])
    assert place.materialized("keen/purchases") == list(DAYS[:3])


def test_a_partition_that_is_not_over_keeps_no_other_one_of_its_range(make_place: MakePlace) -> None:
    today = datetime.now(timezone.utc).date()
    yesterday, tomorrow = (str(today + timedelta(days=days)) for days in (-1, 1))

    class WithToday(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            days = dg.DailyPartitionsDefinition(yesterday, end_offset=2)
            return super().get_asset_spec(data).replace_attributes(partitions_def=days)

    place = make_place(collections=[Collection("purchases", yesterday)], translator=WithToday())
    run = place.backfill(["keen/purchases"], yesterday, tomorrow)
    assert "partitions are not over, so they have no file: " in place.failure(run)
    assert tomorrow in place.failure(run)
    assert yesterday in place.materialized("keen/purchases")


def test_collections_with_other_partitions_are_assets_of_their_own(make_place: MakePlace) -> None:
    place = make_place(
        collections=[
            Collection("purchases", "2026-01-01", granularity="hourly"),
            Collection("logins", "2026-01-01", encoding="csv.gz"),
        ]  # type: ignore[arg-type]
    )
    assert place.backfill(["keen/purchases"], "2026-01-01-00:00", "2026-01-01-03:00").success
    assert place.materialized("keen/purchases") == [f"2026-01-01-{hour:02d}:00" for hour in range(4)]
    assert place.backfill(["keen/logins"], DAYS[0], DAYS[0]).success
    assert (place.root / "logins" / f"{DAYS[0]}.csv.gz").read_bytes()[:2] == b"\x1f\x8b"
