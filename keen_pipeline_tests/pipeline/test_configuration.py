"""The configuration of today decides: what was made by another is asked for anew, and nobody else's is touched."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from keen_pipeline.client.address import Address
from keen_pipeline.collection import Collection, CountPolicy, Encoding, Granularity, Layout, MaskMethod
from keen_pipeline.errors import ConfigurationError, RateLimitedError
from keen_pipeline.extraction import Status
from keen_pipeline.filters import Filter
from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.partitions import Partition, partition_range
from keen_pipeline.pipeline import extract, partition_request
from keen_pipeline.pipeline.freshness import coverage, todays_landings
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client
from keen_pipeline_tests.pipeline.scripted import ScriptedKeen
from keen_pipeline_tests.pipeline.world import World, day

WELL = Collection("well", "2026-01-01")
MASKED = replace(WELL, mask={"body:n": MaskMethod.HASH})
CHANGES = {
    "filters": replace(WELL, filters=(Filter("body:n", "gt", 0),)),
    "encoding": replace(WELL, encoding=Encoding.CSV_GZ),
    "layout": replace(WELL, layout=Layout.HIVE),
    "mask": MASKED,
    "zone": replace(WELL, timezone="Asia/Kathmandu"),
    "parquet in hive": replace(WELL, encoding=Encoding.PARQUET, layout=Layout.HIVE),
}


def content(world: World, path: str) -> bytes:
    data = (world.root / path).read_bytes()
    return gzip.decompress(data) if path.endswith(".gz") else data


def night(world: World, collection: Collection) -> list[str]:
    """A night and what follows; the paths it wanted."""
    wanted = world.night(collection)
    world.ticks()
    assert world.ledger.open_entries() == []
    return sorted(request.path for request in wanted)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_and_its_way_back_leave_one_file_and_the_right_one(world: World, name: str) -> None:
    changed = CHANGES[name]
    assert world.files() == []
    assert night(world, WELL) == world.files()
    for collection in (changed, WELL, changed, WELL):
        wanted = night(world, collection)
        assert world.files() == wanted
        fingerprints = {r.partition_key: r.fingerprint(world.ledger.scope) for r in world.night(collection)}
        states = world.ledger.partitions("well")
        assert {s.key: s.landed_fingerprint for s in states if s.key in fingerprints} == fingerprints
        assert coverage(world.ledger, collection, world.clock.now(), mask_key=b"k1").outdated == ()
        if collection.encoding is not Encoding.PARQUET and not collection.mask:
            for request in world.night(collection):
                assert content(world, request.path) == world.api.csv(request)
    # Each change was asked for once, and the last night asked for nothing new.
    assert max(world.api.posts.values()) == 5


def test_files_of_partitions_that_no_configuration_has_any_more_are_named(world: World) -> None:
    night(world, WELL)
    now = world.clock.now()
    landed = tuple(state.key for state in world.ledger.partitions("well") if state.landed)
    assert landed
    assert coverage(world.ledger, WELL, now).strays == ()
    assert coverage(world.ledger, replace(WELL, start_date=landed[-1]), now).strays == landed[:-1]
    assert coverage(world.ledger, replace(WELL, granularity=Granularity.HOURLY), now).strays == landed


def test_a_rotated_key_makes_what_it_hashed_out_of_date(world: World) -> None:
    [path] = night(world, replace(MASKED, lookback_days=1))
    before = (world.root / path).read_bytes()
    assert before != world.api.csv(world.requests(MASKED, 3)[0])
    night(world, replace(MASKED, lookback_days=1))
    assert (world.root / path).read_bytes() == before
    world.pipeline = replace(world.pipeline, mask_key=b"k2")
    assert coverage(world.ledger, MASKED, world.clock.now(), mask_key=b"k2").outdated == ("2026-01-03",)
    night(world, replace(MASKED, lookback_days=1))
    assert (world.root / path).read_bytes() != before
    assert world.api.posts["well", "2026-01-03"] == 2
    # A key is no matter where nothing is hashed.
    assert partition_request(WELL, _third(), mask_key=b"k1") == partition_request(WELL, _third(), mask_key=b"k2")


def _third() -> Partition:
    [third] = partition_range(WELL, "2026-01-03", "2026-01-03", day(9))
    return third


def test_a_hash_without_a_key_is_refused_before_anything_is_noted(world: World) -> None:
    world.pipeline = replace(world.pipeline, mask_key=None)
    with pytest.raises(ConfigurationError, match="well: a column is to be hashed, but there is no key"):
        world.night(MASKED)
    assert world.ledger.open_entries() == []
    night(world, WELL)


def test_a_reader_that_lacks_the_key_of_hashes_is_told_which_variable_has_it(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"^well: columns are hashed, but .* KEEN_PIPELINE_MASK_KEY$"):
        todays_landings(world.ledger, MASKED)
    wanted = todays_landings(world.ledger, MASKED, mask_key=b"k1")
    [request] = world.requests(MASKED, 1)
    assert wanted("well", "2026-01-01") == request.fingerprint(world.ledger.scope)
    assert todays_landings(world.ledger, WELL)("well", "2025-12-31") is None


def test_projects_of_one_budget_share_their_requests_a_minute_and_others_do_not(world: World) -> None:
    asked = Settings(base_url="https://api.keen.io", read_key="r1", requests_per_minute=1, budget="organization")
    for project, budget, is_free in (("p1", "organization", True), ("p2", "organization", False), ("p2", None, True)):
        client = open_client(replace(asked, project_id=project, budget=budget), world.ledger)
        with nullcontext() if is_free else pytest.raises(RateLimitedError):
            client._transport._limiter.acquire(timeout=0)


@pytest.mark.parametrize(("url", "goes"), [(None, False), ("https://api.keen.io", True)])
def test_the_service_of_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, url: str | None, goes: bool) -> None:
    endpoint = Mock(base_url="http://keen.example:4001", project_id="p1", read_key="r1", write_key=None, master_key=None)
    monkeypatch.setattr("keen_pipeline.service.embedded.ensure", lambda _: endpoint)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    client = open_client(Settings(base_url=url, project_id="p1", read_key="r1"))
    assert (client._transport._connector.proxies.of(Address(True, "keen.example", 443)) is not None) is goes


def test_values_are_hashed_alike_under_one_key(world: World) -> None:
    night(world, MASKED)
    hashes: dict[str, set[str]] = {}
    for request in world.requests(MASKED, 1, 3):
        with (world.root / request.path).open(newline="") as file:
            for n, row in enumerate(csv.DictReader(file)):
                hashes.setdefault(str(n), set()).add(row["body:n"])
    assert [len(values) for values in hashes.values()] == [1, 1, 1]
    assert len(set.union(*hashes.values())) == 3


@pytest.mark.parametrize("policy", [CountPolicy.FAIL, CountPolicy.WARN])
def test_a_policy_of_today_counts_what_landed_without_one(world: World, policy: CountPolicy) -> None:
    night(world, replace(WELL, count_check=CountPolicy.OFF))
    assert world.api.count_of("count", "well") == 0
    world.api.add("well", day(2, 20), 9)
    night(world, replace(WELL, count_check=CountPolicy.OFF))
    assert not world.is_right(world.requests(WELL, 2)[0])
    night(world, replace(WELL, count_check=policy))
    assert all(world.is_right(request) for request in world.requests(WELL, 1, 3))
    assert {world.entry(request).request.count_check for request in world.requests(WELL, 1, 3)} == {policy}
    assert [world.api.posts["well", f"2026-01-0{n}"] for n in (1, 2, 3)] == [1, 2, 1]


def test_a_policy_that_was_turned_off_asks_for_nothing(world: World) -> None:
    night(world, WELL)
    counts = world.api.count_of("count", "well")
    world.api.add("well", day(2, 20), 9)
    night(world, replace(WELL, count_check=CountPolicy.OFF))
    assert world.api.count_of("count", "well") == counts
    assert world.api.posts["well", "2026-01-02"] == 1


def test_a_person_asks_anew_and_a_repetition_of_that_keeps_what_it_landed(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    world.extract(requests)
    world.clock.advance(10)
    launched = world.clock.now()
    anew = world.extract(requests[:2], keep=lambda entry: entry.landed_at is not None and entry.landed_at >= launched)
    assert [e.adopted for e in anew if type(e).__name__ == "Landed"] == [False, False]
    again = world.extract(requests, keep=lambda entry: entry.landed_at is not None and entry.landed_at >= launched)
    assert sorted((e.entry.request.partition_key, e.adopted) for e in again if type(e).__name__ == "Landed") == [
        ("2026-01-01", True),
        ("2026-01-02", True),
        ("2026-01-03", False),
    ]
    assert [world.api.posts[request.place] for request in requests] == [2, 2, 2]
    assert all(world.is_right(request) for request in requests)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"half")])
def test_a_file_that_is_gone_or_has_another_length_is_asked_for_anew(world: World, spoil: Callable[[Path], object]) -> None:
    requests = world.requests(WELL, 1, 3)
    world.extract(requests)
    spoil(world.root / requests[1].path)
    heard = world.extract(requests)
    assert {e.entry.request.partition_key: e.adopted for e in heard if type(e).__name__ == "Landed"} == {
        "2026-01-01": True,
        "2026-01-02": False,
        "2026-01-03": True,
    }
    assert all(world.is_right(request) for request in requests)


def other_project(world: World, root: Path) -> World:
    api = ScriptedKeen(world.clock)
    for number in (1, 2, 3):
        for n in range(number % 3 + 1):  # as many events, of other values
            api.add("well", day(number, 3 + n), 50 + n)
    return world.beside(root, api=api, source="projects/two")


def test_another_project_on_the_same_ledger_and_folder_is_not_taken_for_the_first(world: World) -> None:
    requests = world.requests(WELL, 1, 3)
    world.extract(requests)
    two = other_project(world, world.root)
    two.extract(requests)
    assert all(two.is_right(request) for request in requests)
    assert [two.api.posts[request.place] for request in requests] == [1, 1, 1]
    # What the first one's ledger says is his alone, and still there.
    assert [world.entry(request).status for request in requests] == [Status.LANDED] * 3
    assert {world.entry(request).extraction_id for request in requests} == {"x1", "x2", "x3"}


def of_another_ledger(world: World, **scope: str) -> World:
    """A pipeline of a ledger of its own that lands at the same destination."""
    other = world.beside(**scope)
    other.ledger = SqlLedger(open_engine("sqlite://"), other.ledger.scope, clock=world.clock)
    other.pipeline = replace(other.pipeline, ledger=other.ledger)
    return other


@pytest.mark.parametrize("scope", [{"source": "projects/two"}, {"name": "second"}], ids=["project", "name"])
def test_files_of_another_ledgers_project_are_never_overwritten(world: World, scope: dict[str, str]) -> None:
    """Two ledgers with one destination overwrote each other's files night after night, and nobody was told."""
    requests = world.requests(WELL, 1, 3)
    world.extract(requests[1:2])
    before = {path: (world.root / path).read_bytes() for path in ("well/2026-01-02.csv", "_manifests/well/2026-01-02.csv.json")}
    other = of_another_ledger(world, **scope)
    with pytest.raises(ConfigurationError, match=r"another ledger, such as well/2026-01-02.csv \(keen: projects/one\)"):
        other.extract(requests)
    assert other.ledger.current(requests) == [None] * 3
    assert {path: (world.root / path).read_bytes() for path in before} == before
    other.extract(requests[:1])  # there is none of the other's
    assert (world.api.posts[requests[0].place], other.entry(requests[0]).status) == (1, Status.LANDED)
    for path in before:
        (world.root / path).unlink()
    other.extract(requests)
    assert [other.entry(request).status for request in requests] == [Status.LANDED] * 3


def test_a_project_whose_ledger_was_lost_lands_its_files_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    requests = world.requests(WELL, 1, 3)
    world.extract(requests)
    world.extract(requests)
    assert caplog.messages == []
    again = of_another_ledger(world)
    again.extract(requests)
    [warning] = caplog.messages
    assert "has not landed, such as well/2026-01-01.csv (keen: projects/one): if another ledger lands there too" in warning
    assert [again.entry(request).status for request in requests] == [Status.LANDED] * 3
    # A damaged manifest keeps nobody from landing.
    (world.root / "_manifests/well/2026-01-02.csv.json").write_text("{")
    other = of_another_ledger(world, source="projects/two")
    other.extract(requests[1:2])
    assert other.entry(requests[1]).status is Status.LANDED


@pytest.mark.parametrize("what", ["project", "destination", "name"])
def test_two_on_one_ledger_never_touch_each_others_entries(world: World, what: str, tmp_path: Path) -> None:
    requests = world.requests(WELL, 1, 3)
    if what == "project":
        other = other_project(world, tmp_path / "two")
    else:
        other = world.beside(tmp_path / "two", **({"name": "second"} if what == "name" else {}))
    first = [r.entry for r in world.ledger.request(requests)]
    other.tick()
    other.tick()
    assert other.api.posts == {} or what != "project"
    assert [world.entry(request) for request in requests] == first
    with other.pipeline.working("another") as worker:
        assert other.ledger.claim([e.entry_id for e in first], worker.id) == []
    assert other.ledger.cancel([e.entry_id for e in first], "not mine") == []
    other.ledger.request(requests)
    assert [world.entry(request) for request in requests] == first
    world.ticks()
    other.ticks()
    assert all(world.is_right(request) for request in requests)
    assert all(other.is_right(request) for request in requests)
    assert sorted(world.told) == sorted(other.told) == sorted(str(request) for request in requests)
    assert sorted(s.landed for s in world.ledger.scopes()) == [3, 3]


def test_an_open_extraction_of_an_earlier_question_gives_way(world: World) -> None:
    world.ledger.request(world.requests(WELL, 1, 3))
    world.tick()  # submitted
    changed = CHANGES["filters"]
    wanted = world.night(changed)
    world.ticks()
    assert all(world.is_right(request) for request in wanted)
    assert world.files() == sorted(request.path for request in wanted)
    assert sorted(world.told) == sorted(str(request) for request in wanted)


@pytest.mark.parametrize("how", ["open", "given up"])
def test_a_change_that_never_landed_and_its_way_back_ask_for_nothing(world: World, how: str) -> None:
    [request] = world.requests(WELL, 3)
    world.extract([request])
    [changed] = world.requests(CHANGES["filters"], 3)
    [asked] = world.ledger.request([changed])
    if how == "given up":
        world.ledger.fail(asked.entry.entry_id, "refused", limits=world.pipeline.limits, final=True)
    before = world.api.posts.total()
    wanted = [r.place for r in world.night(WELL)]
    world.ticks()
    assert (request.place in wanted, world.api.posts.total() - before) == (True, len(wanted) - 1)
    state = {s.key: s for s in world.ledger.partitions("well")}[request.partition_key]
    assert (state.landed, state.landed_fingerprint) == (True, request.fingerprint(world.ledger.scope))
    found = coverage(world.ledger, WELL, world.clock.now())
    assert (found.landed, found.outdated, found.given_up) == (3, (), ())
    if how == "given up":  # today's question is the one that was given up
        [still] = coverage(world.ledger, CHANGES["filters"], world.clock.now()).given_up
        assert still.key == request.partition_key
    assert request.place in [r.place for r in world.night(WELL)]  # nobody's word keeps later nights from it


def test_a_run_stopped_right_after_it_asked_otherwise_leaves_no_day_that_nobody_asks_for(world: World) -> None:
    first = world.night(WELL)[-1]
    world.ledger.cancel([world.entry(first).entry_id], "a person's word")
    changed = CHANGES["filters"]
    days = world.requests(changed, 1, 4)  # the first and the fourth were open for nobody
    events = extract(world.pipeline, days, doing="a backfill", run_id="stopped")
    next(events)  # journalled, nothing posted
    events.close()
    assert [entry.request for entry in world.ledger.open_entries()] == days[1:3]
    world.ticks()
    assert [world.is_right(request) for request in days] == [False, True, True, False]
