"""What a root URI means, what names are made of, and how large a file may be."""

from __future__ import annotations

import random
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing import FileDestination, layout
from keen_pipeline.landing.storages.errors import cleaned, short
from keen_pipeline.landing.storages.remote import in_parts
from keen_pipeline.landing.storages.storage import normal_root
from keen_pipeline.landing.transfer.direct import TemporaryFile
from keen_pipeline.wiring import open_destination


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("data/landing", "data/landing"),
        ("./data/landing/", "./data/landing"),
        (" /data ", "/data"),
        ("/", "/"),
        ("~/landing", "/home/someone/landing"),
        ("~", "/home/someone"),
        ("data/~/x", "data/~/x"),
        ("file:///data/landing", "/data/landing"),
        ("FILE:///data/landing", "/data/landing"),
        ("file:///data/with%20space/", "/data/with space"),
        ("file:///data/what%3F%23", "/data/what?#"),
        ("file://localhost/data", "/data"),
        ("file://~/landing", "/home/someone/landing"),
        ("file:///~/landing", "/home/someone/landing"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket", "s3://bucket"),
        ("sftp://user@host:22/folder", "sftp://user@host:22/folder"),
        ("C:\\data\\landing", "C:\\data\\landing"),
        ("C:/data/landing/", "C:/data/landing"),
        ("c:", "c:"),
    ],
)
def test_root_means_what_people_expect(uri: str, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert normal_root(uri) == root
    assert normal_root(root) == root


def test_every_way_to_write_a_folder_is_one_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a part of the scope: two spellings would be two shares of the ledger, which land over each other."""
    folder = tmp_path / "real"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    ways = ["real", "link", "./link/", f" {folder} ", f"file://{folder}", f"file://{tmp_path}/link", "link/../real"]
    assert {open_destination(uri, {}).uri for uri in ways} == {str(folder.resolve())}
    assert open_destination("s3://bucket/real", {}).uri == "s3://bucket/real"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "is empty"),
        ("file://data/landing", "data is where a host name is expected\nWrite file:///data/landing"),
        ("file:data", "neither a path nor a URI"),
        ("file://", "names no"),
        ("file:///data/run#1", "destination file:///data/run: a query"),
        ("file:///data/run?x=abcdefgh", "a query"),
        ("file:///data%00", "can't be printed"),
        ("file:///data%0a/x", "can't be printed"),
        ("s3:/bucket/x", "neither a path nor a URI"),
        ("~nobody-of-this-name/x", "no such user's home folder"),
        ("s3://", "names no bucket"),
        ("s3:///key", "names no bucket"),
        ("s3://bucket/../other", "mean nothing there"),
        ("sftp://host/~/landing", "mean nothing there"),
        ("azure://container/x?sv=2026&sig=abcdefgh", "a query"),
        ("s3://bucket/a\nb", "can't be printed"),
        ("s3://key:secret@bucket/x", "no keys in the URI"),
    ],
)
def test_root_that_could_mean_two_things_is_refused(uri: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        normal_root(uri)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "abcdefgh" not in str(raised.value)


def test_home_folder_is_where_it_lands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    FileDestination("~/landing").write_list("purchases", "a", "2026-01-01", [1])
    assert (tmp_path / "landing/_unique/purchases/2026-01-01.a.json").read_bytes() == b"[1]"


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1, max_size=250), st.text(min_size=1, max_size=250), st.sampled_from(["2026-01-01", "k" * 35, "k" * 200]))
def test_lists_of_two_properties_never_share_a_file(first: str, second: str, key: str) -> None:
    uris = ["/r/" + layout.list_path("purchases", name.encode(errors="replace").decode(), key) for name in (first, second)]
    assert (uris[0] == uris[1]) == (first.encode(errors="replace") == second.encode(errors="replace"))
    assert all(len(uri.rpartition("/")[2].encode()) <= 250 for uri in uris)


def test_list_of_a_long_name_has_a_name_of_its_own() -> None:
    same = "a" * 300
    uris = {"/r/" + layout.list_path("purchases", same + end, "2026-01-01") for end in ("", "b", "c")}
    assert len(uris) == 3
    assert layout.list_path("purchases", "a" * 200, "2026-01-01").endswith("a" * 200 + ".json")


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 3333])
def test_parts_of_a_staged_file_are_few_and_in_order(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keen_pipeline.landing.storages.remote.PART_BYTES", 10)
    data = random.Random(size).randbytes(size)
    with TemporaryFile() as file:
        file.write(data)
        parts = in_parts(cast("BinaryIO", file), size, 100, lambda number, part: (number, part))
    assert [number for number, _ in parts] == list(range(len(parts)))
    assert b"".join(part for _, part in parts) == data
    assert len(parts) <= 100
    assert {len(part) for _, part in parts[:-1]} <= {max(10, -(-size // 100))}


@given(st.one_of(st.text(max_size=300), st.text(min_size=1, max_size=20).map(lambda text: text * 150)))
def test_names_and_codes_in_messages_are_short_and_plain(text: str) -> None:
    assert len(short(text)) <= 100
    assert short(text).isprintable() or not text
    assert len(cleaned(text)) <= 60
    assert cleaned(text).isascii()
