"""Which landing of a partition is read."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.filters import Filter
from keen_pipeline.landing import FileDestination
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline.freshness import todays_landings
from keen_pipeline.readers import LandedReader
from keen_pipeline.readers.files import landed_files, require
from keen_pipeline.scope import Scope
from keen_pipeline.testing import KeenLanding
from keen_pipeline.testing.landing import SOURCE

DAYS = ("2026-01-01", "2026-01-02")


@pytest.fixture
def twice(keen_landing: KeenLanding) -> KeenLanding:
    """Two days, the first of them also by a filter and in another encoding, later."""
    keen_landing.land("visits", {DAYS[1]: [{"n": 2}], DAYS[0]: [{"n": 1}, {"n": 5}]})
    other = Collection("visits", DAYS[0], encoding=Encoding.CSV_GZ, filters=(Filter("body:n", "gt", 3),))
    keen_landing.land(other, {DAYS[0]: [{"n": 5, "late": True}]})
    return keen_landing


def test_the_newest_landing_unless_one_is_wanted(twice: KeenLanding) -> None:
    files = landed_files(twice.ledger, "visits")
    assert {key: (file.request.encoding, file.landing.records) for key, file in files.items()} == {
        DAYS[0]: (Encoding.CSV_GZ, 1),
        DAYS[1]: (Encoding.CSV, 1),
    }
    assert list(files) == list(DAYS)
    assert landed_files(twice.ledger, "logins") == {}


def test_a_reader_takes_no_other_landing(twice: KeenLanding) -> None:
    today = {entry.request.partition_key: entry.fingerprint for entry in twice.ledger.landed_entries("visits")}
    reader = LandedReader(twice.ledger, twice.destination, lambda collection, key: today[key])
    assert reader.load("visits", DAYS, pd.DataFrame)["body:n"].to_list() == [5, 2]
    changed = LandedReader(twice.ledger, twice.destination, lambda collection, key: {**today, DAYS[0]: "another"}[key])
    with pytest.raises(
        ConfigurationError, match=r"visits: 1 of 2 partitions at .* were made with a different config.*: 2026-01-01;"
    ):
        changed.uris("visits", DAYS)
    assert changed.uris("visits", DAYS[1:]).keys() == {DAYS[1]}


def test_a_partition_that_is_not_over_is_missing_and_not_empty(keen_landing: KeenLanding) -> None:
    visits = Collection("visits", DAYS[0])
    keen_landing.land(visits, {DAYS[0]: [{"n": 1}]})
    reader = LandedReader(keen_landing.ledger, keen_landing.destination, todays_landings(keen_landing.ledger, visits))
    assert len(reader.load("visits", ["2025-12-31", DAYS[0]], pd.DataFrame)) == 1  # the first lies before the start date
    with pytest.raises(ConfigurationError, match=r"1 of 2 partitions are not landed at .*: 2999-01-01;"):
        reader.load("visits", [DAYS[0], "2999-01-01"], pd.DataFrame)
    with pytest.raises(
        ConfigurationError, match=r"Visits: 1 of 1 partitions .*why they are missing; or is it misspelt\? There are visits$"
    ):
        LandedReader(keen_landing.ledger, keen_landing.destination).uris("Visits", DAYS[:1])


def test_a_reader_that_knows_no_configuration_mixes_no_filters_or_masks(twice: KeenLanding) -> None:
    reader = LandedReader(twice.ledger, twice.destination)
    mixed = r"visits: 1 of 2 partitions at .* were made with a different filter or mask than the others: 2026-01-0\d; materialize"
    for kind in (pd.DataFrame, dict[str, pd.DataFrame], list[str]):
        with pytest.raises(ConfigurationError, match=mixed):
            reader.load("visits", DAYS, kind)
    assert [reader.load("visits", day, pd.DataFrame)["body:n"].to_list() for day in DAYS] == [[5], [2]]
    twice.land(Collection("visits", DAYS[0]), {DAYS[0]: [{"n": 7}]}, force=True)
    assert reader.load("visits", DAYS, pd.DataFrame)["body:n"].to_list() == [7, 2]
    twice.land(Collection("visits", DAYS[0], mask={"body:n": "mask"}), {DAYS[1]: [{"n": 9}]}, force=True)
    with pytest.raises(ConfigurationError, match=mixed):
        reader.uris("visits", DAYS)


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        ("UTC", "Europe/Berlin", True),  # an hour is in both
        ("Europe/Berlin", "UTC", True),  # an hour is missing
        ("UTC", "America/New_York", True),
        ("Asia/Kolkata", "Asia/Kolkata", False),
    ],
)
def test_a_reader_that_knows_no_configuration_mixes_no_zones(
    keen_landing: KeenLanding, first: str, second: str, refused: bool
) -> None:
    for day, zone in zip(DAYS, (first, second), strict=True):
        keen_landing.land(Collection("visits", DAYS[0], timezone=zone), {day: [{"n": 1}]})
    keen_landing.land(Collection("visits", DAYS[0], timezone=second), {"2026-01-04": [{"n": 2}]})
    assert len(keen_landing.reader.uris("visits", [DAYS[1], "2026-01-04"])) == 2  # a day between them is not asked for
    if refused:
        with pytest.raises(ConfigurationError, match=rf"partitions {DAYS[0]} and {DAYS[1]} were made in different time zones"):
            keen_landing.reader.load("visits", DAYS, pd.DataFrame)
    else:
        assert len(keen_landing.reader.load("visits", DAYS, pd.DataFrame)) == 2


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    ("granularity", "first", "last"),
    [
        ("hourly", "2025-10-26-00:00", "2025-10-26-05:00"),
        ("daily", "2025-03-01", "2025-04-15"),
        ("weekly", "2025-03-02", "2025-06-01"),
        ("monthly", "2025-02-01", "2025-09-01"),
    ],
)
def test_partitions_of_one_zone_are_read_together_whichever_are_left_out(
    keen_landing: KeenLanding, zone: str, granularity: str, first: str, last: str
) -> None:
    collection = Collection("visits", "2025-01-01", timezone=zone, granularity=granularity)  # type: ignore[arg-type]
    keys = [one.key for one in partition_range(collection, first, last, datetime(2026, 1, 1, tzinfo=timezone.utc))]
    keen_landing.land(collection, {key: [] for key in keys})
    for step in (1, 2, 3):
        assert len(keen_landing.reader.uris("visits", keys[::step])) == len(keys[::step])


def test_no_reader_takes_an_unproven_file(twice: KeenLanding) -> None:
    with twice.ledger.engine.begin() as connection:
        connection.execute(sa.update(entries).where(entries.c.partition_key == DAYS[1]).values(unproven=True))
    reader = LandedReader(twice.ledger, twice.destination)
    with pytest.raises(ConfigurationError, match=rf"unproven: {DAYS[1]}; materialize"):
        reader.uris("visits", DAYS[1:])
    assert reader.uris("visits", DAYS[:1]).keys() == {DAYS[0]}


def test_what_todays_configuration_asks_nothing_for_counts_as_empty(twice: KeenLanding) -> None:
    today = {entry.request.partition_key: entry.fingerprint for entry in twice.ledger.landed_entries("visits")}
    reader = LandedReader(twice.ledger, twice.destination, lambda collection, key: today[key] if key == DAYS[1] else None)
    assert reader.uris("visits", DAYS).keys() == {DAYS[1]}


def test_what_lies_at_another_destination_is_not_landed_here(twice: KeenLanding) -> None:
    elsewhere = FileDestination(f"{twice.destination.uri}-other")
    ledger = SqlLedger(open_engine(twice.ledger_url), Scope(SOURCE, elsewhere.uri))
    assert landed_files(ledger, "visits") == {}


def test_a_long_history_of_a_wide_collection_holds_each_name_once(keen_landing: KeenLanding) -> None:
    wide = {f"property_{number}": number for number in range(300)}
    # No two days have the same columns.
    keen_landing.land("visits", {f"2026-01-{day:02d}": [{**wide, f"of_day_{day}": 1}] for day in range(1, 31)})
    names = [name for entry in keen_landing.ledger.landed_entries("visits") if entry.landing for name in entry.landing.columns]
    assert (len(names), len({id(name) for name in names})) == (30 * 302, 300 + 30 + 1)


@pytest.mark.parametrize(("landed", "doubts"), [((), True), (("2026-01-02",), False)])
def test_a_name_may_be_misspelt_when_nothing_of_it_has_landed(landed: tuple[str, ...], doubts: bool) -> None:
    files: Any = dict.fromkeys(landed)
    with pytest.raises(ConfigurationError, match=r"1 of 1 partitions are not landed at /r: 2026-01-01; materialize") as raised:
        require("vists", ["2026-01-01"], files, "/r", lambda: ["visits"])
    assert ("or is it misspelt? There are visits" in str(raised.value)) is doubts
