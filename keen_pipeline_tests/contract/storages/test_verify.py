"""`verify` and `rebuild` on every kind of storage, in every encoding: the landings are real, the storage is the one under test."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

import pytest

from keen_pipeline.collection import Collection
from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.extraction import Landing, Status
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.layout import manifest_path
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Pipeline, partition_request
from keen_pipeline.pipeline.extractions.wait import Stopped
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.manifests import Manifest
from keen_pipeline.pipeline.files.rebuild import rebuild
from keen_pipeline.pipeline.files.verify import Range, Verified, landed_of, repair, strangers, verify
from keen_pipeline.ports import ExtractionApi
from keen_pipeline.scope import Scope
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.contract.storages.places import Place

NOW = datetime(2026, 2, 1, tzinfo=timezone.utc)
CSV = b"header:timestamp,body:n\r\n2026-01-01T00:00:00.000Z,1\r\n" * 50
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
COLLECTION = Collection("sign ups: all", "2026-01-01", encoding="csv.gz")  # type: ignore[arg-type]


def pipeline_at(destination: FileDestination) -> Pipeline:
    ledger = SqlLedger(open_engine("sqlite://"), Scope("projects/p1", destination.uri))
    return Pipeline(cast("ExtractionApi", None), ledger, destination)


def land(destination: FileDestination, scope: Scope, collection: Collection = COLLECTION) -> list[Manifest]:
    """Files as landings leave them, with their manifests."""
    made = []
    for number, partition in enumerate(partition_range(collection, DAYS[0], DAYS[-1], NOW)):
        request, data = partition_request(collection, partition), gzip.compress(CSV, mtime=0)
        uri = destination.uri_of(request.path)
        destination.write(request.path, data)

        landing = Landing(uri, len(CSV), 99, hashlib.sha256(CSV).hexdigest(), ("header:timestamp", "body:n"), len(data), 0.1)
        entry = Entry(0, f"{number:016x}", request, "", 1, Status.LANDED, NOW, NOW, landing=landing, counted=99, counted_at=NOW)
        made.append(Manifest.of(entry, scope, NOW))
        manifests.write(destination, made[-1])
    return made


def problems(pipeline: Pipeline, names: Sequence[str] = (COLLECTION.name,)) -> dict[str | None, str | None]:
    found = [*verify(pipeline, landed_of(pipeline.ledger, names, Range())), *strangers(pipeline, names)]
    return {one.partition: one.problem for one in found if one.problem is not None}


def test_what_lies_there_is_proven_and_what_is_wrong_is_named(place: Place) -> None:
    destination = place.destination()
    pipeline = pipeline_at(destination)
    told = land(destination, pipeline.scope)
    assert len(rebuild(pipeline.ledger, destination).restored) == 4
    assert problems(pipeline) == {}
    paths = [manifest.entry.request.path for manifest in told]
    whole = gzip.compress(CSV, mtime=0)
    destination.write(paths[0], whole[:-9])
    destination.remove(destination.uri_of(paths[1]))
    # As long as before, and the same trailer: only the hash can tell.
    destination.write(paths[2], gzip.compress(CSV.replace(b",1", b",2"), mtime=0).ljust(len(whole), b"\0")[: len(whole)])
    destination.write(f"{paths[3]}.bak", b"somebody's")
    found = problems(pipeline)
    assert set(found) == {*DAYS[:3], None}
    assert found[DAYS[0]] == f"it has {len(whole) - 9} bytes, {len(whole)} landed"
    assert found[DAYS[1]] == "the file is missing"
    assert found[None] == "a file too many: no landing has put it there"


def test_a_file_that_may_be_anothers_is_wrong_although_it_is_whole(tmp_path: Path) -> None:
    pipeline = pipeline_at(FileDestination(str(tmp_path)))
    land(pipeline.destination, pipeline.scope)
    first, *_others = rebuild(pipeline.ledger, pipeline.destination).restored
    pipeline.ledger.mark_unproven(first)
    told = "a landing broke off while it was switched into place: it may be another's"
    assert problems(pipeline) == {first.request.partition_key: told}


def test_folder_that_can_not_be_listed_hides_no_other_collections_strangers(tmp_path: Path) -> None:
    pipeline = pipeline_at(FileDestination(str(tmp_path / "landed")))
    (tmp_path / "landed" / "b").mkdir(parents=True)
    (tmp_path / "landed" / "b" / "x.csv").touch()
    (tmp_path / "landed" / "a").symlink_to(tmp_path)
    first, second = strangers(pipeline, ["a", "b"])
    assert "symbolic link that leads out of the destination" in str(first.problem)
    assert (second.collection, second.problem) == ("b", "a file too many: no landing has put it there")


def unwritten(entry: Entry) -> Verified:
    return Verified(entry.request.collection, entry.request.partition_key, "", "its manifest is missing", entry, is_file=False)


def test_a_manifest_that_can_not_be_repaired_stops_no_other(tmp_path: Path) -> None:
    pipeline = pipeline_at(FileDestination(str(tmp_path)))
    land(pipeline.destination, pipeline.scope)
    first, second, *_ = rebuild(pipeline.ledger, pipeline.destination).restored
    for entry in (first, second):
        manifests.remove(pipeline.destination, entry.request.path)
    (tmp_path / manifest_path(first.request.path)).mkdir()
    [told] = repair(pipeline, [unwritten(first), unwritten(second)], [])
    assert isinstance(told, Stopped)
    assert (told.entry, "can't be written" in str(told.error)) == (first, True)
    assert set(problems(pipeline)) == {first.request.partition_key}


def test_a_repair_writes_no_manifest_of_a_file_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    landing = KeenLanding(tmp_path)
    pipeline = Pipeline(cast("ExtractionApi", None), landing.ledger, landing.destination)
    landing.land("visits", {DAYS[0]: [{"n": 1}]})
    [before] = landing.ledger.landed_entries("visits")
    landing.land("visits", {DAYS[0]: [{"n": 1}, {"n": 2}]}, force=True)
    assert list(repair(pipeline, [unwritten(before)], [])) == []
    assert manifests.find(landing.destination, before.request.path) is None


def test_a_folder_that_can_not_be_listed_keeps_no_other_from_a_rebuilt_ledger(tmp_path: Path) -> None:
    root = tmp_path / "landed"
    pipeline = pipeline_at(FileDestination(str(root)))
    land(pipeline.destination, pipeline.scope)
    land(pipeline.destination, pipeline.scope, replace(COLLECTION, name="logins"))
    (root / "logins").rename(tmp_path / "elsewhere")
    (root / "logins").symlink_to(tmp_path / "elsewhere")
    done = rebuild(pipeline.ledger, pipeline.destination)
    assert {entry.request.collection for entry in done.restored} == {COLLECTION.name}
    [(uri, why)] = done.problems
    assert (uri, "its folder can't be listed: " in why) == (str(root / "logins"), True)


def test_a_list_that_fails_for_now_hides_nothing_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipeline_at(FileDestination(str(tmp_path)))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.csv").touch()
    files = pipeline.destination.files

    def failing(folder: str) -> Iterator[tuple[str, int]]:
        if folder == "_manifests/a":
            raise ServiceUnavailableError("HTTP 503")
        yield from files(folder)

    monkeypatch.setattr(pipeline.destination, "files", failing)
    first, second = strangers(pipeline, ["a", "b"])
    assert (first.collection, first.problem) == ("a", "its folder can't be listed: HTTP 503")
    assert (second.collection, second.problem) == ("b", "a file too many: no landing has put it there")


def test_a_rebuilt_ledger_leaves_out_what_is_not_there(place: Place) -> None:
    destination = place.destination()
    pipeline = pipeline_at(destination)
    told = land(destination, pipeline.scope)
    destination.remove(destination.uri_of(told[0].entry.request.path))
    destination.write(told[1].entry.request.path, b"half")
    destination.write(f"_manifests/{told[2].entry.request.path}.json", b"{}")
    done = rebuild(pipeline.ledger, destination)
    assert [entry.request.partition_key for entry in done.restored] == [DAYS[3]]
    assert sorted(why.partition(" ")[0] for _, why in done.problems) == ["it", "the", "the"]
    assert done.restored[0].landing == told[3].landing


@pytest.mark.parametrize("wanted", [Range(), Range("2026-01-02", "2026-01-03"), Range("2026-01-03"), Range(last="2026-01")])
def test_a_range_holds_both_its_ends(wanted: Range) -> None:
    keys = {Range(): DAYS, Range("2026-01-03"): DAYS[2:], Range(last="2026-01"): DAYS}.get(wanted, DAYS[1:3])
    assert [key for key in (*DAYS, "2026-02-01", "2025-12-31") if key in wanted and key in DAYS] == keys
    assert ("2026-02-01" in wanted) == (wanted.last is None)
    assert "2026-01-03-08:00" in wanted
