"""Names that differ only in what Dagster doesn't take, and schedules by granularity, zone and cron."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from keen_pipeline import (
    Collection,
    CsvDestination,
    KeenResource,
    KeenTranslator,
    KeenTranslatorData,
    build_keen_definitions,
    keen_assets,
    table_asset,
    unique_values_asset,
)
from keen_pipeline.collection import Encoding, Granularity
from keen_pipeline.defs.names import Names, identifier
from keen_pipeline.defs.partitions import partitions_definition
from keen_pipeline.errors import ConfigurationError, InvalidInputError


def schedules(*collections: Collection, **kwargs: Any) -> dict[str, dg.ScheduleDefinition]:
    defs = build_keen_definitions(collections, **kwargs)
    dg.Definitions.validate_loadable(defs)
    return {s.name: s for s in defs.get_repository_def().schedule_defs}


def times(found: dict[str, dg.ScheduleDefinition]) -> set[tuple[Any, Any]]:
    return {(s.cron_schedule, s.execution_timezone) for s in found.values()}


def asked_for(schedule: dg.ScheduleDefinition, at: datetime) -> dict[str, Any]:
    with dg.build_schedule_context(scheduled_execution_time=at) as context:
        [request] = schedule.evaluate_tick(context).run_requests or []
    [op] = request.run_config["ops"].values()
    config: dict[str, Any] = op["config"]
    return config


HOURLY = Collection("clicks", "2026-01-01", granularity=Granularity.HOURLY)
BERLIN = Collection("logins", "2026-01-01", timezone="Europe/Berlin")
PACIFIC = Collection("orders", "2026-01-01", timezone="America/Los_Angeles")
OWN = Collection("visits", "2026-01-01", cron="30 3 * * 1-5")


def test_each_granularity_and_zone_has_its_own_time() -> None:
    found = schedules(HOURLY, BERLIN, PACIFIC, OWN, Collection("a", "2026-01-01"), Collection("b", "2026-01-01"))
    assert times(found) == {
        ("5 * * * *", "UTC"),
        ("0 1 * * *", "Europe/Berlin"),
        ("0 1 * * *", "America/Los_Angeles"),
        ("30 3 * * 1-5", "UTC"),
        ("0 1 * * *", "UTC"),
    }
    utc = next(s for s in found.values() if (s.cron_schedule, s.execution_timezone) == ("0 1 * * *", "UTC"))
    assert [c["name"] for c in asked_for(utc, datetime(2026, 1, 5, 1, tzinfo=timezone.utc))["collections"]] == ["a", "b"]
    assert all(s.default_status is dg.DefaultScheduleStatus.STOPPED for s in found.values())


def test_a_schedule_that_is_on_keeps_its_name_when_collections_are_added() -> None:
    others = [PACIFIC, replace(PACIFIC, name="refunds"), HOURLY, replace(HOURLY, name="views"), OWN]
    for before in ([BERLIN], [replace(OWN, name="a")], [replace(HOURLY, name="a")], [replace(OWN, name="a"), BERLIN]):
        held = {name: (s.cron_schedule, s.execution_timezone) for name, s in schedules(*before).items()}
        for found in (schedules(*before, *others), schedules(HOURLY, *before), schedules(*others, *before)):
            assert {name: (found[name].cron_schedule, found[name].execution_timezone) for name in held} == held


def test_a_tick_asks_as_of_its_own_time() -> None:
    [schedule] = schedules(PACIFIC).values()
    config = asked_for(schedule, datetime(2026, 1, 5, 1, tzinfo=ZoneInfo("America/Los_Angeles")))
    assert config["as_of"] == "2026-01-05T09:00:00Z"


def test_a_cron_and_a_zone_for_all_leave_hourly_and_own_crons_alone() -> None:
    found = schedules(HOURLY, BERLIN, OWN, nightly_cron="0 4 * * *", nightly_timezone="Asia/Tokyo")
    assert times(found) == {("5 * * * *", "Asia/Tokyo"), ("0 4 * * *", "Asia/Tokyo"), ("30 3 * * 1-5", "Asia/Tokyo")}
    assert [name for name, one in found.items() if one.cron_schedule == "0 4 * * *"] == [Names().nightly]


def test_running_schedules_are_asked_for() -> None:
    assert {s.default_status for s in schedules(BERLIN, running=True).values()} == {dg.DefaultScheduleStatus.RUNNING}


@pytest.mark.parametrize("kwargs", [{"nightly_cron": "at one"}, {"nightly_timezone": "Mars/Base"}])
def test_what_is_no_schedule_is_refused_with_its_collection(kwargs: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="collection logins, nightly_cron: "):
        build_keen_definitions([BERLIN], **kwargs)  # type: ignore[arg-type]


def test_no_step_of_one_collection_has_the_name_of_a_step_of_several() -> None:
    names, both = Names("keen"), ("a", "b")
    assert identifier("a__keen__b") != "a__keen__b"
    assert names.step("a__keen__b") != "__".join(names.step(one) for one in both)


def test_names_that_look_alike_load_together() -> None:
    east, west = Collection("east", "2026-01-01", timezone="Etc/GMT+5"), Collection("west", "2026-01-01", timezone="Etc/GMT-5")
    spaced, dotted, lined, short = (Collection(name, "2026-01-01") for name in ("Sign Ups", "a.b", "a_b", "a"))
    ours = build_keen_definitions([east, west, spaced, dotted, lined, short])
    of_users = [
        table_asset(spaced),
        table_asset(dotted),
        table_asset(lined),
        unique_values_asset(spaced, "body:user:id"),
        unique_values_asset(spaced, "body:user_id"),
        unique_values_asset(dotted, "body:x"),
        unique_values_asset(lined, "body:x"),
        unique_values_asset(lined, "c"),
        unique_values_asset(short, "b_c"),
    ]
    defs = dg.Definitions.merge(ours, dg.Definitions(assets=of_users, resources={"keen_database": object()}))
    dg.Definitions.validate_loadable(defs)
    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert {"keen/Sign_Ups", "keen/a.b", "keen/a_b", "keen/Sign_Ups/unique/body:user:id"} <= keys
    graph = defs.get_repository_def().asset_graph
    for name, key in (("Sign Ups", "Sign_Ups"), ("a.b", "a.b"), ("a_b", "a_b")):
        [table] = [a for a in of_users[:3] if graph.get(a.key).parent_keys == {dg.AssetKey(["keen", key])}]
        assert f"events of {name} " in graph.get(table.key).description
    assert len({Names().step(c) for c in ("Sign Ups", "Sign_Ups", "a.b", "a_b", "a-b")}) == 5


def test_two_collections_of_one_key_are_refused_unless_a_translator_tells_them_apart() -> None:
    both = [Collection("Sign Ups", "2026-01-01"), Collection("Sign_Ups", "2026-01-01")]
    with pytest.raises(InvalidInputError, match="would be one asset, keen/Sign_Ups"):
        build_keen_definitions(both)

    class Apart(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            key = dg.AssetKey([data.name, identifier(data.collection.name)])
            return super().get_asset_spec(data).replace_attributes(key=key)

    dg.Definitions.validate_loadable(build_keen_definitions(both, translator=Apart()))


def test_steps_keep_their_names_whatever_else_is_configured() -> None:
    def steps(*collections: Collection) -> dict[str, str]:
        assets = build_keen_definitions(collections).assets or ()
        return {a.key.to_user_string(): a.node_def.name for a in assets if isinstance(a, dg.AssetsDefinition)}

    alone, together = steps(BERLIN), steps(BERLIN, PACIFIC, Collection("later", "2026-05-01", timezone="Europe/Berlin"))
    assert alone == {"keen/logins": "keen__logins"}
    assert together["keen/logins"] == "keen__logins"


def test_no_step_has_the_name_of_another_definitions_of_a_job_or_of_an_asset_of_the_user() -> None:
    @dg.asset(deps=[["keen", "eu_users"]])
    def keen_eu_users() -> None:
        """Named as a step of ours once was."""

    def ours(name: str, *collections: str) -> dg.Definitions:
        return build_keen_definitions([Collection(one, "2026-01-01") for one in collections], name=name)

    defs = dg.Definitions.merge(
        ours("keen", "eu_users", "eu__users", "submit_extractions", "materialize_csvs", "submit_extraction"),
        ours("keen_eu", "users", "submit_extraction", "materialize_csv"),
        dg.Definitions(assets=[keen_eu_users]),
    )
    dg.Definitions.validate_loadable(defs)
    assert len(defs.resolve_all_asset_specs()) == 9


@pytest.mark.parametrize("name", ["", "1st", "two words", "a-b", "keen_", "x" * 65, None])
def test_a_name_that_dagster_does_not_take_is_refused(name: Any) -> None:
    with pytest.raises(InvalidInputError, match="name must be letters"):
        build_keen_definitions([BERLIN], name=name)


def test_each_collection_has_its_spec_made_once_however_many_there_are() -> None:
    made: list[str] = []

    class Counting(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            made.append(data.collection.name)
            assert len(data.others) == 1
            return super().get_asset_spec(data)

    names = [f"c{number}" for number in range(40)]
    days = {name: f"2026-01-{1 + number % 28:02}" for number, name in enumerate(names)}
    defs = build_keen_definitions([Collection(name, day) for name, day in days.items()], translator=Counting())
    assert sorted(made) == sorted(names)
    keys = {spec.partitions_def.get_first_partition_key() for spec in defs.resolve_all_asset_specs() if spec.partitions_def}
    assert keys == {"2026-01-01"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"collections": "purchases"}, "collections must be a list of Collection"),
        ({"collections": [{"name": "purchases"}]}, "collections must be a list of Collection"),
        ({"collections": BERLIN}, "collections must be a list of Collection"),
        ({"destination": "./data"}, "destination must be a CsvDestination, not a str"),
        ({"destination": Path("data")}, "destination must be a CsvDestination, not a"),
        ({"translator": KeenTranslator}, "translator must be a KeenTranslator, not a type"),
        ({"notifications": {"mail_to": []}}, "notifications must be a KeenNotifications, not a dict"),
        ({"nightly_cron": ["0 1 * * *"]}, "nightly_cron must be a str, not a list"),
        ({"running": "false"}, "running must be a bool, not a str"),
        ({"sensor_interval_seconds": 0}, "sensor_interval_seconds must lie between 1 and 3600, not 0"),
        ({"partitions_per_run": "5"}, "partitions_per_run must lie between 1 and 100000, not '5'"),
        ({"partitions_per_run": True}, "partitions_per_run must lie between 1 and 100000, not True"),
    ],
)
def test_an_argument_of_another_kind_is_refused_by_name(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        build_keen_definitions(**{"collections": [BERLIN], **arguments})


def test_a_name_instead_of_a_collection_is_refused_in_words() -> None:
    name: Any = "purchases"
    for make in (table_asset, lambda one: unique_values_asset(one, "body:currency")):
        with pytest.raises(InvalidInputError, match=r"^collection must be a Collection\(name=\.\.\.\), not 'purchases'$"):
            make(name)
    for wrong, said in (([name], "must be a list of Collection"), ([BERLIN, BERLIN], "logins is listed twice")):
        with pytest.raises(InvalidInputError, match=said):
            keen_assets(collections=wrong)


def test_an_encoding_without_its_extra_is_refused_when_definitions_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pyarrow" else found(name, *rest))
    parquet = [replace(BERLIN, encoding=Encoding.PARQUET)]
    for make in (lambda: build_keen_definitions(parquet), lambda: keen_assets(collections=parquet)(lambda context: iter(()))):
        with pytest.raises(ConfigurationError, match="encoding parquet needs its extra"):
            make()


def test_resources_that_are_configured_at_launch_are_taken() -> None:
    defs = build_keen_definitions([BERLIN], keen=KeenResource.configure_at_launch(), destination=CsvDestination(uri="x"))  # type: ignore[arg-type]
    dg.Definitions.validate_loadable(defs)


@pytest.mark.parametrize(
    "given",
    [
        dg.WeeklyPartitionsDefinition("2026-01-04", timezone="Europe/Berlin"),
        dg.DailyPartitionsDefinition("2026-01-01"),
        dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Berlin", hour_offset=6),
        dg.StaticPartitionsDefinition(["2026-01-01"]),
    ],
)
def test_partitions_whose_keys_stand_for_other_times_are_refused(given: dg.PartitionsDefinition[Any]) -> None:
    class Other(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            return super().get_asset_spec(data).replace_attributes(partitions_def=given)

    for make in (
        lambda: build_keen_definitions([BERLIN], translator=Other()),
        lambda: table_asset(BERLIN, partitions_def=given),
        lambda: unique_values_asset(BERLIN, "body:x", partitions_def=given),
    ):
        with pytest.raises(InvalidInputError, match="logins: partitions_def: must be daily in Europe/Berlin"):
            make()


def test_partitions_may_begin_and_end_elsewhere() -> None:
    given = dg.DailyPartitionsDefinition("2025-06-01", timezone="Europe/Berlin", end_offset=1)
    assert table_asset(BERLIN, partitions_def=given).partitions_def == given


def test_a_spec_that_a_translator_makes_from_nothing_keeps_the_partitions() -> None:
    class Bare(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            return dg.AssetSpec(["raw", data.collection.name])

    [spec] = build_keen_definitions([BERLIN], translator=Bare()).resolve_all_asset_specs()
    assert (spec.key.path, spec.partitions_def) == (["raw", "logins"], partitions_definition(BERLIN))


def test_a_translator_without_a_return_is_told_what_it_lacks() -> None:
    class Forgetful(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:  # type: ignore[empty-body]
            super().get_asset_spec(data).replace_attributes(owners=["team:growth"])

    with pytest.raises(InvalidInputError, match="logins: get_asset_spec must return an AssetSpec, not None"):
        build_keen_definitions([BERLIN], translator=Forgetful())
