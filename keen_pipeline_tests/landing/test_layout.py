"""Partition <-> URI, both ways, and nothing that leaves its folder."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.landing.layout import ad_hoc_key, parse_ad_hoc_key, parse_target, quarantine_uri, target_uri
from keen_pipeline.timeframe import Timeframe

UTC = timezone.utc
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC))
COLLECTIONS = st.from_regex(r"[a-j][A-Za-z0-9_.\- ]{0,20}", fullmatch=True).filter(lambda name: ".." not in name)
KEYS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.:+\-]{0,30}", fullmatch=True).filter(
    lambda key: ".." not in key and not key.endswith((".csv", ".csv.gz"))
)


@pytest.mark.parametrize(
    ("root", "encoding", "uri"),
    [
        ("/data/landing", Encoding.CSV, "/data/landing/purchases/2026-01-31.csv"),
        ("/data/landing/", Encoding.CSV_GZ, "/data/landing/purchases/2026-01-31.csv.gz"),
        ("data", Encoding.CSV_ZST, "data/purchases/2026-01-31.csv.zst"),
        ("s3://bucket/prefix", Encoding.PARQUET, "s3://bucket/prefix/purchases/2026-01-31.parquet"),
    ],
)
def test_target_follows_the_layout(root: str, encoding: Encoding, uri: str) -> None:
    assert target_uri(root, "purchases", "2026-01-31", encoding) == uri


@given(collection=COLLECTIONS, key=KEYS, encoding=st.sampled_from(Encoding), root=st.sampled_from(["/a/b", "s3://b/x y", "rel"]))
def test_target_is_read_back(collection: str, key: str, encoding: Encoding, root: str) -> None:
    place = parse_target(root, target_uri(root, collection, key, encoding))
    assert (place.root, place.collection, place.partition_key, place.encoding) == (root, collection, key, encoding)


@given(start=INSTANTS, length=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_ad_hoc_key_is_a_file_name_and_is_read_back(start: datetime, length: timedelta) -> None:
    timeframe = Timeframe(start, start + length)
    key = ad_hoc_key(timeframe)
    assert parse_ad_hoc_key(key) == timeframe
    assert not set(key) & set('/\\:*?"<>| ')
    assert parse_target("/r", target_uri("/r", "purchases", key)).partition_key == key


def test_ad_hoc_keys_sort_by_time() -> None:
    days = [Timeframe(datetime(2026, month, 1, tzinfo=UTC), datetime(2026, month, 2, tzinfo=UTC)) for month in range(1, 13)]
    keys = [ad_hoc_key(day) for day in days]
    assert keys == sorted(keys)
    assert keys[0] == "20260101T000000Z_20260102T000000Z"


@pytest.mark.parametrize(
    "key", ["", "2026-01-01", "20260101T000000Z", "20261301T000000Z_20260102T000000Z", "20260102T000000Z_20260101T000000Z"]
)
def test_other_keys_are_no_ad_hoc_keys(key: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_ad_hoc_key(key)


@pytest.mark.parametrize("collection", ["", "..", "a/b", "../a", "_quarantine", ".hidden", "a\n", "keen", "a" * 257])
def test_name_that_could_leave_its_folder_is_refused(collection: str) -> None:
    with pytest.raises(InvalidInputError):
        target_uri("/r", collection, "2026-01-01")


@pytest.mark.parametrize("key", ["", "..", "a/b", "../x", ".x", "a\x00", "a b", "x" * 201, "a?b", "a#b", "a\\b"])
def test_key_that_is_no_file_name_is_refused(key: str) -> None:
    with pytest.raises(InvalidInputError):
        target_uri("/r", "purchases", key)


@pytest.mark.parametrize(
    "uri",
    [
        "/r/purchases/2026-01-01.txt",
        "/r/2026-01-01.csv",
        "/other/purchases/2026-01-01.csv",
        "/r/a/b/c.csv",
        "/r/_quarantine/a.csv",
        "/r/../x/y.csv",
    ],
)
def test_other_files_are_no_targets(uri: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_target("/r", uri)


@pytest.mark.parametrize(
    ("extraction_id", "name"),
    [("abc123", "2026-01-01.abc123.csv.gz"), ("../../x", "2026-01-01.------x.csv.gz"), ("", "2026-01-01.unknown.csv.gz")],
)
def test_quarantine_keeps_each_extraction_apart(extraction_id: str, name: str) -> None:
    aside = quarantine_uri("/r/", "/r/purchases/2026-01-01.csv.gz", extraction_id)
    assert aside == f"/r/_quarantine/purchases/{name}"
