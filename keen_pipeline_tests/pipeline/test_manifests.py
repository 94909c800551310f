"""What is noted beside a file, and looked at again, is of the landing that lies there and of no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keen_pipeline.collection import Collection, CountPolicy, Encoding, Granularity
from keen_pipeline.errors import InvalidInputError, ServiceUnavailableError
from keen_pipeline.extraction import Kind
from keen_pipeline.filters import Filter, Operator
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.layout import manifest_path
from keen_pipeline.ledger.notices import SqlNotices
from keen_pipeline.pipeline import count_landed
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.land import _OneLanding
from keen_pipeline.pipeline.files.manifests import Manifest
from keen_pipeline.pipeline.files.upkeep import tidy_up
from keen_pipeline.pipeline.files.verify import Verified, strangers, to_repair, verify
from keen_pipeline_tests.ledgers import asked, complete, land
from keen_pipeline_tests.pipeline.world import World, day

WELL = Collection("well", "2026-01-01", email="ada@example.com")


def raise_(error: Exception) -> None:
    raise error


def test_a_count_is_not_noted_in_the_manifest_of_another_landing(world: World) -> None:
    destination, [request] = world.pipeline.destination, world.requests(WELL, 1)
    world.extract([request])
    entry = world.entry(request)
    others = Manifest.of(replace(entry, token="f" * 16), world.ledger.scope, world.clock.now())
    manifests.write(destination, others)
    assert manifests.note_counts(destination, world.ledger.scope, [(entry, 7)], world.clock.now()) == ({}, [])
    assert (world.root / manifest_path(request.path)).read_bytes() == others.to_json()
    manifests.write(destination, Manifest.of(entry, world.ledger.scope, world.clock.now()))
    assert manifests.note_counts(destination, world.ledger.scope, [(entry, 7)], world.clock.now()) == ({}, [entry])
    noted = manifests.find(destination, request.path)
    assert noted is not None
    assert noted.entry.counted == 7


def test_a_count_written_over_the_manifest_of_a_landing_that_is_not_told_yet_leaves_that_one_in_doubt(world: World) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    before = world.entry(request)
    [newer] = [answer.entry.entry_id for answer in world.ledger.request([request], keep=lambda _: False)]
    worker = world.ledger.workers.register("another landing")
    complete(world.ledger, newer, worker)
    destination = world.pipeline.destination
    meddled = FileDestination(destination.uri)

    def written(path: str, data: bytes) -> None:
        world.ledger.publishing(newer, worker)
        destination.write(path, data)

    meddled.write = written  # type: ignore[method-assign]
    world.api.add("well", day(1, 20), 7)
    list(count_landed(replace(world.pipeline, destination=meddled), [before]))
    assert before.landing is not None
    assert world.ledger.landed(newer, worker, before.landing).unproven


def test_a_file_that_was_replaced_while_it_was_looked_at_is_nobodys_fault(world: World) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    before = world.entry(request)
    world.extract([request], keep=lambda _: False)
    assert [found.problem for found in verify(world.pipeline, [before])] == [None]
    (world.root / request.path).write_bytes(b"x")
    [found] = verify(world.pipeline, [world.entry(request)])
    assert str(found.problem).startswith("it has 1 bytes, ")


def test_a_file_that_is_yet_to_be_removed_is_no_file_too_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = replace(WELL, encoding=Encoding.CSV_GZ)
    world.extract(world.requests(WELL, 1))
    with monkeypatch.context() as broken:
        broken.setattr(FileDestination, "remove", lambda *_: raise_(ServiceUnavailableError("HTTP 503")))
        world.extract(world.requests(packed, 1))
    (world.root / "well" / "2026-01-09.csv").write_text("of nobody")
    assert world.files() == ["well/2026-01-01.csv", "well/2026-01-01.csv.gz", "well/2026-01-09.csv"]
    assert [Path(found.uri).name for found in strangers(world.pipeline, ["well"])] == ["2026-01-09.csv"]


@pytest.mark.parametrize("kind", [Kind.PARTITION, Kind.AD_HOC])
@pytest.mark.parametrize(
    ("configured", "mailed"),
    [([], False), ([replace(WELL, granularity=Granularity.WEEKLY)], False), ([WELL], True)],
)
def test_a_repair_mails_only_who_todays_configuration_names(
    world: World, kind: Kind, configured: list[Collection], mailed: bool
) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    entry = world.entry(request)
    entry = replace(entry, request=replace(entry.request, kind=kind, email="bob@example.com"))
    [again] = to_repair(world.pipeline, [Verified("well", request.partition_key, "", "it is wrong", entry)], configured)
    assert again.email == (WELL.email if mailed and kind is Kind.PARTITION else None)
    assert (again.path, again.timeframe) == (request.path, request.timeframe)


def test_notices_that_went_out_are_known_for_three_months(world: World) -> None:
    notices = SqlNotices(world.ledger.engine, clock=world.clock)
    for name in ("old", "new"):
        notices.plan(name, "mail")
        notice = notices.claim({"mail"}, 300)
        assert notice is not None
        notices.end(notice.notice_id)
        world.clock.advance(50 * 86_400)
    assert tidy_up(world.pipeline) == []
    assert [notices.plan(name, "mail") for name in ("old", "new")] == [True, False]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"filters": (Filter("n", Operator.EQ, 7),)}, "its manifest differs from the ledger"),
        ({"email": "bob@example.com", "count_check": CountPolicy.WARN}, None),
    ],
)
def test_a_manifest_of_another_request_is_told_and_one_of_another_mail_is_not(
    world: World, changes: dict[str, Any], problem: str | None
) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    entry = world.entry(request)
    other = replace(entry, request=replace(entry.request, **changes))
    manifests.write(world.pipeline.destination, Manifest.of(other, world.ledger.scope, world.clock.now()))
    assert [found.problem for found in verify(world.pipeline, [entry])] == [problem]


@pytest.mark.parametrize(
    "changes", [{"kind": "slice"}, {"path": "other/2026-01-01.csv"}, {"path": "well-2026-01-01.csv"}, {"collection": "other"}]
)
def test_a_manifest_that_belongs_to_no_file_of_its_collection_is_refused(world: World, changes: dict[str, str]) -> None:
    [request] = world.requests(WELL, 1)
    world.extract([request])
    written = (world.root / manifest_path(request.path)).read_bytes()
    assert manifests.read_manifest(written).entry.request.path == request.path
    with pytest.raises(InvalidInputError, match="it doesn't belong to a file of "):
        manifests.read_manifest(json.dumps(json.loads(written) | changes).encode())


@pytest.mark.parametrize(
    ("way", "kind", "stays"), [("cancel", Kind.SLICE, False), ("cancel", Kind.PARTITION, True), ("land", Kind.SLICE, True)]
)
def test_a_landing_that_comes_too_late_removes_the_file_of_a_cancelled_slice_alone(
    world: World, way: str, kind: Kind, stays: bool
) -> None:
    [request] = world.requests(WELL, 1)
    [waiting] = asked(world.ledger, request)
    if way == "cancel":
        world.ledger.cancel([waiting], "by a person")
    else:
        land(world.ledger, waiting)
    [entry] = world.ledger.entries([waiting])
    world.pipeline.destination.write(request.path, b"x")
    landing: Any = SimpleNamespace(_pipeline=world.pipeline, _entry=replace(entry, request=replace(request, kind=kind)))
    _OneLanding._remove_if_cancelled(landing)
    assert (world.file(request) is not None) is stays
