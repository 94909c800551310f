"""Manifests, `verify`, `verify --repair` and `ledger rebuild` on files that a live service's extractions landed."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import shlex
import shutil
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.cli import main
from keen_pipeline.client import KeenClient
from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.pipeline import Ended, Landed, Pipeline, requests_of_a_night, submit
from keen_pipeline.pipeline.extractions.wait import Event
from keen_pipeline.pipeline.files.manifests import read_manifest
from keen_pipeline.pipeline.files.verify import Verified, verify
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.settings import Settings
from keen_pipeline.testing import live_service
from keen_pipeline.wiring import open_pipeline
from keen_pipeline_tests.acceptance.place import Place, make_place

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
RANGE = ["--from", DAYS[0], "--to", DAYS[-1]]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with live_service() as service:
        load(service, "purchases", 3)
        yield service


def load(service: Endpoint, collection: str, number: int) -> None:
    events = [{"keen": {"timestamp": f"{day}T12:00:00Z"}, "n": n, "who": "ann@x"} for day in DAYS for n in range(number)]
    with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
        client.add_events({collection: events})


@pytest.fixture
def place(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    return make_place(endpoint, tmp_path, monkeypatch, capsys)


@pytest.fixture
def landed(place: Place) -> Place:
    status, told = place.json("backfill", "purchases", *RANGE)
    assert (status, len(told["landings"])) == (0, 3)
    return place


def problems(told: Any) -> dict[str | None, str]:
    assert (told["checked"], told["ok"]) == (told["checked"], told["checked"] - len(told["wrong"]))
    return {row["partition"]: row["problem"] for row in told["wrong"]}


def test_a_manifest_tells_all_of_its_file(landed: Place, endpoint: Endpoint) -> None:
    document = json.loads(landed.manifest(DAYS[0]).read_text())
    data = landed.file(DAYS[0]).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    expected = {
        "schema": "keen_pipeline.manifest",
        "version": 1,
        "source": f"projects/{endpoint.project_id}",
        "name": "keen",
        "collection": "purchases",
        "partition": DAYS[0],
        "kind": "partition",
        "timeframe": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
        "filters": [],
        "path": f"purchases/{DAYS[0]}.csv",
        "uri": str(landed.file(DAYS[0])),
        "encoding": "csv",
        "bytes": len(data),
        "sha256": digest,
        "events": 3,
        "stored_bytes": len(data),
        "stored_sha256": digest,
        "counted": 3,
    }
    assert {name: document[name] for name in expected} == expected
    assert [column["name"] for column in document["columns"]] == ["header:timestamp", "body:n", "body:who"]
    assert document["extraction_id"] == landed.extraction_ids()[DAYS[0]]
    assert read_manifest(landed.manifest(DAYS[0]).read_bytes()).to_json() == landed.manifest(DAYS[0]).read_bytes()
    assert endpoint.read_key not in landed.manifest(DAYS[0]).read_text()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"schema": "keen_pipeline.manifest", "version": 2}', b'{"schema": 1'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read_manifest(data)


@pytest.mark.parametrize("encoding", ["csv", "csv.gz", "csv.zst", "parquet"])
def test_whole_files_are_well_and_a_changed_byte_is_not(place: Place, encoding: str) -> None:
    place.collections(f"encoding: {encoding}")
    assert place.run("backfill", "purchases", *RANGE)[0] == 0
    assert place.json("verify") == (0, {"checked": 3, "ok": 3, "wrong": []})
    file = place.file(DAYS[1], encoding)
    manifest = json.loads(place.manifest(DAYS[1], encoding).read_text())
    data = bytearray(file.read_bytes())
    assert manifest["stored_sha256"] == hashlib.sha256(data).hexdigest()
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    status, told = place.json("verify", "purchases", "--from", DAYS[1], "--to", DAYS[1])
    assert (status, told["checked"], list(problems(told))) == (1, 1, [DAYS[1]])
    assert place.json("verify", "--to", DAYS[0])[0] == 0


def test_masked_files_are_proven_by_their_manifest(place: Place) -> None:
    place.collections("mask: {'body:who': hash}, encoding: csv.gz")
    assert place.run("backfill", "purchases", *RANGE)[0] == 0
    assert place.json("verify")[0] == 0
    file = place.file(DAYS[2], "csv.gz")
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"2,", b"3,"), 1))
    place.manifest(DAYS[0], "csv.gz").unlink()
    status, told = place.json("verify")
    assert (status, set(problems(told))) == (1, {DAYS[0], DAYS[2]})
    assert "nothing proves it" in problems(told)[DAYS[0]]


def test_what_is_wrong_is_named_and_repaired_and_nothing_else_is_touched(landed: Place) -> None:
    before, asked = {day: landed.file(day).read_bytes() for day in DAYS}, landed.extraction_ids()
    landed.file(DAYS[0]).unlink()
    landed.file(DAYS[1]).write_bytes(before[DAYS[1]][:-1])
    landed.file("2025-01-01").write_bytes(b"somebody's")
    status, told = landed.json("verify")
    found = problems(told)
    assert (status, told["checked"]) == (1, 4)
    assert (found[DAYS[0]], found[DAYS[1]]) == (
        "the file is missing",
        "it has 77 bytes, 78 landed".replace("77", str(len(before[DAYS[1]]) - 1)).replace("78", str(len(before[DAYS[1]]))),
    )
    assert found[None] == "a file too many: no landing has put it there"
    status, out, err = landed.run("verify")
    assert (status, "keen-pipeline: 3 of 4 files are not as they landed" in err) == (1, True)
    assert all(str(landed.file(key)) in out for key in (DAYS[0], DAYS[1], "2025-01-01"))
    status, told = landed.json("verify", "--repair")
    assert status == 1  # the file too many is nobody's to remove
    assert {row["partition"]: row["repaired"] for row in told["wrong"]} == {DAYS[0]: True, DAYS[1]: True, None: False}
    landed.file("2025-01-01").unlink()
    assert landed.json("verify", "--counts")[0] == 0
    assert {day: landed.file(day).read_bytes() for day in DAYS} == before
    now = landed.extraction_ids()
    assert [now[day] != asked[day] for day in DAYS] == [True, True, False]


def test_a_repair_that_fails_is_not_told_as_one(landed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in DAYS[:2]:
        landed.file(day).unlink()

    def halfway(pipeline: Pipeline, wrong: Sequence[Verified], *_: Any) -> Generator[Event, None, None]:
        first, second = (one.entry for one in wrong)
        assert first is not None
        assert second is not None
        yield Landed(first)
        yield Ended(replace(second, error="the service reports the extraction as failed"))

    monkeypatch.setattr("keen_pipeline.cli.verify.repair", halfway)
    status, told = landed.json("verify", "--repair")
    assert (status, {row["partition"]: row["repaired"] for row in told["wrong"]}) == (1, {DAYS[0]: True, DAYS[1]: False})
    why = "the service reports the extraction as failed"
    assert problems(told) == {DAYS[0]: "the file is missing", DAYS[1]: f"the file is missing; it could not be repaired: {why}"}


def test_a_verification_that_is_stopped_tells_what_is_left(landed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    landed.file(DAYS[0]).write_bytes(b"x" + landed.file(DAYS[0]).read_bytes()[1:])

    def until_the_second(*args: Any, **options: Any) -> Iterator[Verified]:
        yield from itertools.islice(verify(*args, **options), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("keen_pipeline.cli.verify.verify", until_the_second)
    status, _, told = landed.run("verify", "purchases", "--to", DAYS[2])
    assert status == 130
    assert "2026-01-01: its content has changed" in told
    assert f"2 of 3 files verified; the rest:\n  keen-pipeline verify purchases --from {DAYS[2]} --to {DAYS[2]}\n" in told


def test_a_lost_manifest_is_written_again_and_nothing_is_extracted(landed: Place) -> None:
    asked = landed.extraction_ids()
    landed.manifest(DAYS[0]).unlink()
    landed.manifest(DAYS[1]).write_text("{}")
    status, told = landed.json("verify")
    assert (status, set(problems(told))) == (1, {DAYS[0], DAYS[1]})
    assert landed.json("verify", "--repair")[0] == 0
    assert landed.json("verify") == (0, {"checked": 3, "ok": 3, "wrong": []})
    assert landed.extraction_ids() == asked


def test_counts_are_those_of_the_service(place: Place, endpoint: Endpoint) -> None:
    load(endpoint, "late", 2)
    (place.folder / "collections.yaml").write_text("collections: [{name: late, start_date: 2026-01-01}]")
    assert place.run("backfill", "late", *RANGE)[0] == 0
    load(endpoint, "late", 1)
    assert place.json("verify", "late")[0] == 0
    status, told = place.json("verify", "late", "--counts")
    assert (status, problems(told)) == (1, dict.fromkeys(DAYS, "it holds 2 events, the service counts 3"))
    assert place.json("verify", "late", "--counts", "--repair")[0] == 0
    assert place.json("verify", "late", "--counts")[0] == 0


def test_a_count_that_cant_be_had_extracts_nothing_again(landed: Place) -> None:
    asked = landed.extraction_ids()
    with landed.monkeypatch.context() as wrong:
        wrong.setenv("KEEN_READ_KEY", "nonsense")
        status, told = landed.json("verify", "--counts", "--repair")
    assert (status, {row["partition"]: row["repaired"] for row in told["wrong"]}) == (1, dict.fromkeys(DAYS, False))
    assert all("its events could not be counted" in row["problem"] for row in told["wrong"])
    assert landed.json("verify", "--counts")[0] == 0
    assert landed.extraction_ids() == asked


def test_another_encoding_takes_the_manifest_of_the_old_one_with_it(landed: Place) -> None:
    landed.collections("encoding: csv.gz")
    assert landed.run("backfill", "purchases", *RANGE)[0] == 0
    there = {path.name for path in (landed.folder / "landing").rglob("*") if path.is_file()}
    assert there == {f"{day}.csv.gz" for day in DAYS} | {f"{day}.csv.gz.json" for day in DAYS}
    assert landed.json("verify")[0] == 0


def test_a_lost_ledger_is_made_anew_and_nothing_is_asked_for(landed: Place, tmp_path: Path) -> None:
    landed.file(DAYS[2]).unlink()
    asked, manifest = landed.extraction_ids(), json.loads(landed.manifest(DAYS[0]).read_text())
    landed.monkeypatch.setenv("KEEN_PIPELINE_LEDGER_URL", f"sqlite:///{tmp_path}/another.db")
    status, told = landed.json("ledger", "rebuild")
    assert (status, told["restored"], told["known"], told["others"]) == (1, 2, 0, 0)
    assert [row["problem"] for row in told["left_out"]] == ["the file is not there"]
    assert landed.json("ledger", "rebuild")[1]["known"] == 2  # again: nothing changes
    status, out, err = landed.run("ledger", "rebuild")
    assert (status, out) == (1, "0 landings restored, 2 known before\n")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["left out", "keen-pipeline"]
    pipeline = open_pipeline(Settings.from_environment())
    entries = pipeline.ledger.landed_entries("purchases")
    assert next((e.token, e.counted) for e in entries) == (manifest["token"], 3)
    assert (pipeline.ledger.outbox(), pipeline.ledger.uncounted()) == ([], [])
    status, told = landed.json("backfill", "purchases", *RANGE)
    assert status == 0
    now = landed.extraction_ids()
    assert [now[day] == asked[day] for day in DAYS] == [True, True, False]
    assert landed.json("verify", "--counts")[0] == 0
    [collection] = read_collections_file(landed.folder / "collections.yaml")
    night = requests_of_a_night(pipeline, collection, datetime(2026, 1, 4, 1, tzinfo=timezone.utc))
    submission = submit(pipeline, night)
    assert (len(night), len(submission.landed), submission.created) == (3, 3, [])


def test_files_of_others_are_left_alone_and_copies_are_taken_over(landed: Place, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "landing", tmp_path / "copy")
    landed.monkeypatch.setenv("KEEN_PIPELINE_DESTINATION", str(tmp_path / "copy"))
    landed.monkeypatch.setenv("KEEN_PIPELINE_NAME", "others")
    status, told = landed.json("ledger", "rebuild")
    assert (status, told["restored"], told["others"]) == (0, 0, 3)
    landed.monkeypatch.setenv("KEEN_PIPELINE_NAME", "keen")
    assert landed.json("ledger", "rebuild")[1]["restored"] == 3
    assert landed.json("verify")[0] == 0
    assert [row["uri"] for row in landed.json("backfill", "purchases", *RANGE)[1]["landings"]] == [
        str(tmp_path / "copy" / "purchases" / f"{day}.csv") for day in DAYS
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is a text")
def test_names_that_are_no_texts_stop_nothing_and_reach_no_terminal(landed: Place, tmp_path: Path) -> None:
    for folder in ("purchases", "_manifests/purchases"):
        (tmp_path / "landing" / folder / os.fsdecode(b"\xff\x1b[31m.json")).write_text("{}")
    # Whether a storage lists such a name is its own affair.
    for words in (["verify"], ["verify", "--json"]):
        status, out, err = landed.run(*words)
        assert (status in (0, 1), "\x1b" in out + err, "Traceback" in err) == (True, False, False)
    status, out, err = landed.run("ledger", "rebuild")
    assert (status, out, "\x1b" in err) == (0, "0 landings restored, 3 known before\n", False)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["verify", "nosuch"], 1, "there are: purchases"),
        (["verify", "--from", "soon"], 2, "a partition key such as"),
        (["verify", "--from", "2026-01-02", "--to", "2026-01-01"], 2, "before --from"),
    ],
)
def test_bad_input_is_told(place: Place, words: list[str], code: int, says: str) -> None:
    status, _, err = place.run(*words)
    assert (status, says in err) == (code, True), err


def test_doctor_names_another_ledger_and_what_is_missing(landed: Place, tmp_path: Path) -> None:
    doctor = {check["name"]: check for check in landed.json("doctor")[1]["checks"]}
    assert (doctor["manifests"]["ok"], doctor["partitions"]["ok"]) == (True, False)  # nothing landed since January
    assert "keen-pipeline backfill purchases --from 2026-01-04 --to" in doctor["partitions"]["message"]
    landed.monkeypatch.setenv("KEEN_PIPELINE_LEDGER_URL", f"sqlite:///{tmp_path}/another.db")
    status, told = landed.json("doctor")
    doctor = {check["name"]: check for check in told["checks"]}
    assert (status, [name for name, check in doctor.items() if not check["ok"]]) == (1, ["manifests"])
    assert "3 of 3 landed files" in doctor["manifests"]["message"]
    assert landed.run("ledger", "rebuild")[0] == 0
    assert {check["name"]: check["ok"] for check in landed.json("doctor")[1]["checks"]}["manifests"]


def test_a_folder_that_was_moved_with_its_ledger_is_told_with_what_mends_it(landed: Place, tmp_path: Path) -> None:
    """The ledger knew the landings, of the old place: `doctor` had found all well, and nobody said what to do."""
    (tmp_path / "landing").rename(tmp_path / "moved")
    landed.monkeypatch.setenv("KEEN_PIPELINE_DESTINATION", str(tmp_path / "moved"))
    mend = "keen-pipeline ledger rebuild"
    wrong = {check["name"]: check["message"] for check in landed.json("doctor")[1]["checks"] if not check["ok"]}
    assert list(wrong) == ["manifests"]
    assert ("3 of 3 landed files" in wrong["manifests"], mend in wrong["manifests"]) == (True, True)
    status, told = landed.json("verify")
    assert (status, [mend in why for why in problems(told).values()]) == (1, [True] * 3)
    assert landed.run("status")[1].endswith(f"if its files were moved here: {mend}\n")
    assert landed.run(*shlex.split(mend)[1:])[0] == 0
    assert landed.json("verify")[0] == 0
    assert mend not in landed.run("status")[1]


def test_init_writes_what_the_project_has_and_overwrites_nothing(place: Place) -> None:
    (place.folder / "collections.yaml").unlink()
    status, out, _ = place.run("init", "--from-project")
    assert (status, "export KEEN_PIPELINE_COLLECTIONS=collections.yaml" in out) == (0, True)
    names = {c.name for c in read_collections_file(place.folder / "collections.yaml")}
    assert "purchases" in names
    assert all(check["ok"] for check in place.json("doctor")[1]["checks"])
    written = (place.folder / "collections.yaml").read_text()
    status, _, err = place.run("init")
    assert (status, "--file" in err) == (1, True)
    assert (place.folder / "collections.yaml").read_text() == written
    assert place.run("init", "--file", "another.yaml")[0] == 0
    assert [c.name for c in read_collections_file(place.folder / "another.yaml")] == ["purchases"]


def test_a_process_that_dies_between_manifest_and_ledger_lands_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    words = ["backfill", "purchases", "--from", DAYS[0], "--to", DAYS[0]]
    with monkeypatch.context() as dying:
        dying.setattr(SqlLedger, "landed", killed)
        dying.setattr(sys, "argv", ["keen-pipeline", *words])
        with pytest.raises(Killed):
            main()
    before = json.loads(place.manifest(DAYS[0]).read_text())
    assert hashlib.sha256(place.file(DAYS[0]).read_bytes()).hexdigest() == before["sha256"]
    assert place.extraction_ids() == {}
    assert place.run(*words)[0] == 0
    after = json.loads(place.manifest(DAYS[0]).read_text())
    assert after["token"] == before["token"]  # the same attempt, asked for once
    assert place.extraction_ids() == {DAYS[0]: before["extraction_id"]}
    assert place.json("verify")[0] == 0


def test_a_manifest_that_cant_be_written_is_no_landing(place: Place) -> None:
    (place.folder / "landing").mkdir()
    (place.folder / "landing" / "_manifests").write_text("in the way")
    status, told = place.json("backfill", "purchases", "--from", DAYS[0], "--to", DAYS[0])
    assert (status, told["landings"], "_manifests" in told["failed"][0]["error"]) == (1, [], True)
    assert place.extraction_ids() == {}
    (place.folder / "landing" / "_manifests").unlink()
    assert place.run("retry", "purchases", DAYS[0])[0] == 0
    assert place.run("backfill", "purchases", "--from", DAYS[0], "--to", DAYS[0])[0] == 0
    assert place.json("verify")[0] == 0


def test_an_ad_hoc_file_has_a_manifest_and_is_verified_where_it_lies(place: Place) -> None:
    status, told = place.json("extract", "purchases", "--from", "2026-01-01", "--to", "2026-01-03", "--to", "files")
    assert status == 0
    [row] = told["landings"]
    manifest = json.loads((place.folder / "files" / "_manifests" / "purchases" / (Path(row["uri"]).name + ".json")).read_text())
    assert (manifest["kind"], manifest["events"], manifest["uri"]) == ("ad_hoc", 6, row["uri"])
    place.monkeypatch.setenv("KEEN_PIPELINE_DESTINATION", "files")
    assert place.json("verify") == (0, {"checked": 1, "ok": 1, "wrong": []})
    Path(row["uri"]).write_bytes(b"")
    assert list(problems(place.json("verify")[1])) == [row["partition"]]
    assert place.json("verify", "--repair")[0] == 0
    assert hashlib.sha256(Path(row["uri"]).read_bytes()).hexdigest() == row["sha256"]
