"""Where a file lies: the layout's paths, and nothing that leaves its folder."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.collection import Encoding, Layout
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.landing.destination import _about
from keen_pipeline.landing.layout import (
    ad_hoc_key,
    collection_folder,
    encoding_of,
    file_path,
    is_ours,
    manifest_path,
    path_below,
    quarantine_path,
    slice_path,
)
from keen_pipeline.landing.storages.remote import ObjectStorage
from keen_pipeline.timeframe import Timeframe

UTC = timezone.utc
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC))
COLLECTIONS = st.from_regex(r"[!-#%-^`-~][ -#%-~]{0,20}", fullmatch=True).filter(lambda name: name == name.strip())


@pytest.mark.parametrize(
    ("encoding", "layout", "path"),
    [
        (Encoding.CSV, Layout.PLAIN, "purchases/2026-01-31.csv"),
        (Encoding.CSV_GZ, Layout.PLAIN, "purchases/2026-01-31.csv.gz"),
        (Encoding.CSV_ZST, Layout.HIVE, "purchases/date=2026-01-31/events.csv.zst"),
        (Encoding.PARQUET, Layout.HIVE, "purchases/date=2026-01-31/events.parquet"),
    ],
)
def test_a_partitions_path_follows_the_layout(encoding: Encoding, layout: Layout, path: str) -> None:
    assert file_path("purchases", "2026-01-31", encoding, layout) == path
    assert encoding_of(path) is encoding
    assert is_ours("/r", f"/r/{path}")


def test_an_hours_path_has_its_hour_and_tells_the_second_of_two_equal_hours_apart() -> None:
    hours = [file_path("p", key, layout=Layout.HIVE) for key in ("2026-10-25-01:00", "2026-10-25-01:00+0000")]
    assert hours == ["p/date=2026-10-25/hour=01/events.csv", "p/date=2026-10-25/hour=01/events+0000.csv"]


@given(first=COLLECTIONS, second=COLLECTIONS)
def test_two_collections_never_share_a_folder_and_none_leaves_its_own(first: str, second: str) -> None:
    folders = [collection_folder(name) for name in (first, second)]
    assert (folders[0] == folders[1]) == (first == second)
    assert not any("/" in folder or folder in ("", ".", "..") or folder.startswith(("_", ".")) for folder in folders)


@pytest.mark.parametrize("letter", ["a", "%", ":"])
def test_folder_of_a_long_name_is_one_that_disks_take_and_its_own(letter: str, tmp_path: Path) -> None:
    names = [letter * 256, letter * 255 + "b", letter * 85, letter * 86]
    for name in names:
        (tmp_path / collection_folder(name)).mkdir()
    assert collection_folder("a" * 255) == "a" * 255
    assert is_ours("/r", f"/r/{file_path(names[0], '2026-01-01')}")


def test_usual_names_stay_readable() -> None:
    assert [collection_folder(name) for name in ("purchases", "Sign Ups", "a.b-c_d")] == ["purchases", "Sign Ups", "a.b-c_d"]


@given(start=INSTANTS, length=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_an_ad_hoc_key_is_a_file_name_and_ours(start: datetime, length: timedelta) -> None:
    key = ad_hoc_key(Timeframe(start, start + length))
    assert not set(key) & set('/\\:*?"<>| ')
    assert is_ours("/r", f"/r/{file_path('purchases', key)}")
    assert is_ours("s3://b/x", f"s3://b/x/{slice_path('purchases', f'7.{key}')}")


def test_ad_hoc_keys_sort_by_time() -> None:
    days = [Timeframe(datetime(2026, month, 1, tzinfo=UTC), datetime(2026, month, 2, tzinfo=UTC)) for month in range(1, 13)]
    keys = [ad_hoc_key(day) for day in days]
    assert keys == sorted(keys)
    assert keys[0] == "20260101T000000Z_20260102T000000Z"


@pytest.mark.parametrize("collection", ["", "_quarantine", "a\n", " a", "a ", "a$b", "ü", "a" * 257])
def test_what_is_no_collection_has_no_folder(collection: str) -> None:
    with pytest.raises(InvalidInputError):
        file_path(collection, "2026-01-01")


@pytest.mark.parametrize("key", ["", "..", "a..b", "a/b", "../x", ".x", "a\x00", "a b", "x" * 201, "a?b", "a#b", "a\\b"])
def test_key_that_is_no_file_name_is_refused(key: str) -> None:
    with pytest.raises(InvalidInputError):
        file_path("purchases", key)


@pytest.mark.parametrize(
    "path",
    [
        "purchases/2026-01-01.txt",
        "2026-01-01.csv",
        "a/b/c.csv",
        "_unknown/2026-01-01.csv",
        "purchases/backup.csv",
        "purchases/date=yesterday/events.csv",
        "purchases/date=2026-01-01/other.csv",
    ],
)
def test_files_that_no_landing_makes_are_not_ours(path: str) -> None:
    assert not is_ours("/r", f"/r/{path}")
    assert not is_ours("/r", f"/other/{path}")


@pytest.mark.parametrize("uri", ["/other/a.csv", "/r/", "/r", "/r/../a.csv", "/r/a/../b.csv", "/r//a.csv"])
def test_a_file_elsewhere_has_no_path(uri: str) -> None:
    with pytest.raises(InvalidInputError):
        path_below("/r", uri)


@pytest.mark.parametrize(
    ("extraction_id", "name"),
    [("abc123", "2026-01-01.abc123.csv.gz"), ("../../x", "2026-01-01.------x.csv.gz"), ("", "2026-01-01.unknown.csv.gz")],
)
def test_quarantine_keeps_each_extraction_apart(extraction_id: str, name: str) -> None:
    aside = quarantine_path("purchases/2026-01-01.csv.gz", extraction_id)
    assert aside == f"_quarantine/purchases/{name}"
    assert is_ours("/r", f"/r/{aside}")


def test_a_manifest_lies_beside_the_collections() -> None:
    assert manifest_path("purchases/2026-01-01.csv") == "_manifests/purchases/2026-01-01.csv.json"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("access was refused\nset a key", "extraction e1: access was refused; nothing was landed\nset a key"),
        ("the disk is full; nothing was published", "extraction e1: the disk is full; nothing was published"),
        ("extraction e1 is gone", "extraction e1 is gone"),
    ],
)
def test_an_error_says_of_which_extraction_and_once_that_nothing_came_of_it(said: str, told: str) -> None:
    assert str(_about(ConfigurationError(said), "extraction e1")) == told


def test_the_mark_of_a_folder_in_a_bucket_is_no_file() -> None:
    listed = [("r/a/", 0), ("r/a/1.csv", 7)]
    bucket: Any = SimpleNamespace(_translated=lambda _: nullcontext(), _listed=lambda *_: iter(listed))
    assert list(ObjectStorage.files(bucket, "s3://b/r")) == [("s3://b/r/a/1.csv", 7)]
