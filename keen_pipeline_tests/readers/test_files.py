"""Which landing of a partition is read."""

from __future__ import annotations

import pandas as pd
import pytest

from keen_pipeline.collection import Collection, Encoding
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.filters import Filter
from keen_pipeline.landing import FileDestination
from keen_pipeline.readers import LandedReader
from keen_pipeline.readers.files import current_landings, landed_files
from keen_pipeline.testing import KeenLanding

DAYS = ("2026-01-01", "2026-01-02")


@pytest.fixture
def twice(keen_landing: KeenLanding) -> KeenLanding:
    """Two days, the first of them also by a filter and in another encoding, later."""
    keen_landing.land("visits", {DAYS[1]: [{"n": 2}], DAYS[0]: [{"n": 1}, {"n": 5}]})
    other = Collection("visits", DAYS[0], encoding=Encoding.CSV_GZ, filters=(Filter("body:n", "gt", 3),))
    keen_landing.land(other, {DAYS[0]: [{"n": 5, "late": True}]})
    return keen_landing


def test_the_newest_landing_unless_one_is_wanted(twice: KeenLanding) -> None:
    files = landed_files(twice.ledger, twice.destination.uri, "visits")
    assert {key: (file.encoding, file.records) for key, file in files.items()} == {
        DAYS[0]: (Encoding.CSV_GZ, 1),
        DAYS[1]: (Encoding.CSV, 1),
    }
    assert list(files) == list(DAYS)


def test_only_what_todays_configuration_wants(twice: KeenLanding) -> None:
    entries = twice.ledger.landed_entries("visits")
    plain = {entry.request.partition_key: entry.request.fingerprint for entry in entries if not entry.request.filters}
    found = current_landings(entries, plain)
    assert {key: entry.landing.records for key, entry in found.items() if entry.landing} == {DAYS[0]: 2, DAYS[1]: 1}
    assert current_landings(entries, {DAYS[1]: plain[DAYS[1]]}).keys() == {DAYS[1]}
    assert current_landings(entries, {DAYS[0]: "another"}) == {}


def test_a_reader_takes_no_other_landing(twice: KeenLanding) -> None:
    entries = twice.ledger.landed_entries("visits")
    plain = {entry.request.partition_key: entry.request.fingerprint for entry in entries if not entry.request.filters}
    reader = LandedReader(twice.ledger, twice.destination, lambda collection: plain)
    frame = reader.load("visits", DAYS, pd.DataFrame)
    assert frame["body:n"].to_list() == [1, 5, 2]
    assert "body:late" not in frame
    gone = LandedReader(twice.ledger, twice.destination, lambda collection: {**plain, DAYS[0]: "another"})
    with pytest.raises(ConfigurationError, match=r"visits: 1 of 2 partitions are not landed at .*: 2026-01-01;"):
        gone.uris("visits", DAYS)


def test_what_lies_at_another_destination_is_not_landed_here(twice: KeenLanding) -> None:
    elsewhere = FileDestination(f"{twice.destination.uri}-other")
    assert landed_files(twice.ledger, elsewhere.uri, "visits") == {}
    assert landed_files(twice.ledger, twice.destination.uri, "logins") == {}
