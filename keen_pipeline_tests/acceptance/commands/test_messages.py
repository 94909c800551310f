"""What went wrong reaches a person in the words it was told in, whatever signs they hold, with the command that mends it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from rich.console import Console

from keen_pipeline.cli import common
from keen_pipeline.cli.common import follow, landings_table
from keen_pipeline.collection import Collection
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.extraction import Kind, Landing, Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry, Limits
from keen_pipeline.partitions import partition_range
from keen_pipeline.pipeline import Ended, Landed, Progress, Stopped, partition_request
from keen_pipeline.pipeline.context import first_line
from keen_pipeline.pipeline.extractions.wait import Event
from keen_pipeline.pipeline.told import grouped, in_lines, summary
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_database, scope_of
from keen_pipeline_tests.acceptance.processes import COMMAND, Shell
from keen_pipeline_tests.contract.ledger.rules import halves
from keen_pipeline_tests.ledgers import land

# To a terminal's markup the first is the end of something never begun, the second nothing to show, and the third has an emoji.
WORDS = (
    "HTTP 400: no [/filters] in [operator] of body:email:domain, and more of it than fits on a line of a terminal" + " or two" * 20
)
COLLECTION = Collection("purchases", "2026-01-01")


def entries(folder: Path, monkeypatch: pytest.MonkeyPatch, days: int = 1) -> tuple[SqlLedger, list[Entry]]:
    """The ledger that commands in the folder use, and intents of its first days."""
    monkeypatch.chdir(folder)
    settings = Settings()
    ledger = SqlLedger(open_database(f"sqlite:///{folder / 'data' / 'ledger.db'}"), scope_of(settings))
    last = (datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=days - 1)).date()
    partitions = partition_range(COLLECTION, "2026-01-01", str(last), datetime(2026, 6, 1, tzinfo=timezone.utc))
    return ledger, [one.entry for one in ledger.request([partition_request(COLLECTION, p) for p in partitions])]


@pytest.fixture
def configured(tmp_path: Path) -> Shell:
    (tmp_path / "collections.yaml").write_text("collections: [{name: purchases, start_date: 2026-01-01}]")
    credentials = {name: name * 4 for name in ("project_id", "read_key", "write_key", "master_key", "signing_key")}
    (tmp_path / "data" / "keen").mkdir(parents=True)
    (tmp_path / "data" / "keen" / "credentials.json").write_text(json.dumps(credentials))
    return Shell(tmp_path, {"KEEN_PIPELINE_COLLECTIONS": "collections.yaml", "COLUMNS": "80"})


def test_an_extractions_error_is_shown_word_for_word(configured: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, asked = entries(configured.folder, monkeypatch, days=8)
    for entry in asked:
        ledger.fail(entry.entry_id, WORDS, limits=Limits(), final=True)
    shown = configured.run("status")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("no [/filters] in [operator] of body:email:domain") == 1  # one reason, told once
    assert "2026-01-01 2026-01-02 2026-01-03 2026-01-04 2026-01-05 and 3 more" in shown.stdout
    assert "keen-pipeline retry purchases 2026-01-01 2026-01-02" in shown.stdout


def test_what_is_open_of_a_collection_that_left_the_configuration_is_told(
    configured: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries(configured.folder, monkeypatch, days=2)
    (configured.folder / "collections.yaml").write_text("collections: [{name: signups, start_date: 2026-01-01}]")
    shown = configured.run("status").stdout
    assert "purchases is not configured, and 2 of it are open: keen-pipeline cancel purchases" in shown
    [left] = json.loads(configured.run("status", "--json").stdout)["not_configured"]
    assert (left["collection"], left["landed"]) == ("purchases", 0)
    assert [(one["partition"], one["status"]) for one in left["open"]] == [("2026-01-01", "requested"), ("2026-01-02", "requested")]
    assert "nothing has landed yet of signups: the nightly job lands the last days; to land some now\n" in shown
    yesterday = (datetime.now(timezone.utc) - timedelta(days=1)).date()
    assert f"  keen-pipeline backfill signups --from {yesterday} --to {yesterday}\n" in shown
    assert configured.run("cancel", "purchases").returncode == 0
    assert "purchases" not in configured.run("status").stdout


def test_a_cancel_counts_partitions_and_takes_their_slices_along(configured: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, [entry, _] = entries(configured.folder, monkeypatch, days=2)
    assert len(ledger.split(entry.entry_id, halves(replace(entry.request, kind=Kind.SLICE)), "too large")) == 2
    done = configured.run("cancel", "purchases")
    assert (done.returncode, done.stdout) == (0, "2 cancelled; `keen-pipeline retry` asks for them again\n")
    assert ledger.open_entries() == []


def test_a_retry_makes_due_what_waits_for_its_next_attempt(configured: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, [first, second] = entries(configured.folder, monkeypatch, days=2)
    for entry in (first, second):
        ledger.fail(entry.entry_id, WORDS, limits=Limits(retry_seconds=600))
    done = configured.run("retry", "purchases", "2026-01-01")
    assert (done.returncode, done.stdout[:50]) == (0, "0 asked for again, 1 already open and due now; the")
    assert [e.due_at <= ledger.clock.now() for e in ledger.open_entries()] == [True, False]


@pytest.mark.parametrize("is_configured", [True, False])
def test_what_has_landed_of_a_collection_that_left_the_configuration_stays_and_is_told(
    configured: Shell, monkeypatch: pytest.MonkeyPatch, is_configured: bool
) -> None:
    ledger, [first, _] = entries(configured.folder, monkeypatch, days=2)
    land(ledger, first.entry_id)
    ledger.cancel([entry.entry_id for entry in ledger.open_entries()], "no")
    name = "purchases" if is_configured else "signups"
    (configured.folder / "collections.yaml").write_text(f"collections: [{{name: {name}, start_date: 2026-01-01}}]")
    told = "purchases is not configured; its 1 landed files stay as they are: keen-pipeline verify purchases"
    assert (told in configured.run("status").stdout) is not is_configured


def test_a_wait_says_what_it_gave_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    ledger, (first, second) = entries(tmp_path, monkeypatch, days=2)
    ended = ledger.fail(first.entry_id, WORDS, limits=Limits(), final=True)
    assert ended is not None
    assert ended.status is Status.ABANDONED

    def events() -> Generator[Event, None, None]:
        yield Ended(ended)
        yield Stopped(second, ConfigurationError("the disk is full"))

    landed, failed = follow(events(), 2, "purchases")
    assert landed == []
    assert [(entry.request.partition_key, reason) for entry, reason in failed] == [
        ("2026-01-01", ended.error),
        ("2026-01-02", "the disk is full (it stays open)"),
    ]
    assert summary(0, failed).splitlines() == [
        "2 of 2 partitions failed",
        f"purchases 2026-01-01: {WORDS.strip()}",
        "  keen-pipeline retry purchases 2026-01-01",
        "purchases 2026-01-02: the disk is full (it stays open)",
        "  keen-pipeline status purchases",
    ]


def test_a_wait_without_change_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configured: Shell
) -> None:
    _, (entry,) = entries(tmp_path, monkeypatch)
    now = 0.0
    monkeypatch.setattr(common.time, "monotonic", lambda: now)

    def events() -> Generator[Event, None, None]:
        nonlocal now
        for seconds in range(0, 20, 2):
            now = float(seconds)
            yield Progress(1, 0, 0, 0, 1, 0, 0, reasons=lambda: ["no connection to [the service]"])
        yield Landed(entry)

    follow(events(), 1, "purchases")
    assert capsys.readouterr().err.count("waiting: no connection to [the service]") == 1


@pytest.mark.parametrize(("width", "columns", "caption"), [(80, 5, "in s3://b"), (200, 6, None)])
def test_a_narrow_terminal_shows_one_line_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: Shell, width: int, columns: int, caption: str | None
) -> None:
    _, asked = entries(tmp_path, monkeypatch, days=2)
    landed = [
        replace(entry, landing=Landing(f"s3://b/{folder}/1.csv", 9, 1, "ab", (), 9, 0.1))
        for entry, folder in zip(asked, ("purchases", "pageviews"), strict=True)
    ]
    monkeypatch.setattr(common, "Console", lambda **_: Console(force_terminal=True, width=width))
    table = landings_table(landed, "Landed")
    assert (len(table.columns), table.row_count, table.caption) == (columns, 2, caption)


def test_collections_that_stopped_for_one_reason_are_told_in_one_line() -> None:
    key = "submit of {}[2026-01-0{}] (project 5f): the service refused KEEN_READ_KEY"
    plan = "submit of signups (project 5f): the service wants the project's plan paid"
    refused = [("purchases", key.format("purchases", 1)), ("logins", key.format("logins", 2)), ("signups", plan)]
    assert summary(6, [], refused).splitlines() == [
        "3 collections stopped",
        "purchases, logins: submit (project 5f): the service refused KEEN_READ_KEY",
        f"signups: {plan}",
        "  keen-pipeline doctor",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_an_output_lacks_a_character_for_is_told_by_its_number(
    configured: Shell, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """It had been a traceback, of `status` at three in the morning for one."""
    ledger, [asked] = entries(configured.folder, monkeypatch)
    ledger.fail(asked.entry_id, "größer → kleiner", limits=Limits(), final=True)
    configured.env = {**configured.env, "PYTHONIOENCODING": encoding}
    command, env = [*COMMAND, "status"], configured.environment()
    done = subprocess.run(command, cwd=configured.folder, env=env, capture_output=True, timeout=120)
    told = "größer → kleiner".encode(encoding, "backslashreplace")
    assert (done.returncode, done.stderr, told in done.stdout) == (0, b"", True)
    document = subprocess.run([*command, "--json"], cwd=configured.folder, env=env, capture_output=True, timeout=120)
    [row] = json.loads(document.stdout.decode(encoding))["collections"]
    assert row["given_up"][0]["error"] == "größer → kleiner"


def test_a_group_leaves_out_what_belongs_to_one_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    _, asked = entries(tmp_path, monkeypatch, days=2)
    full = [(one, f"{one.request}, extraction {n}0c1b9f8d30f: /d/x.csv is full\nFree some space.") for n, one in enumerate(asked)]
    mend = "  keen-pipeline status purchases"
    assert grouped(reversed(full)) == [f"purchases 2026-01-01 2026-01-02: /d/x.csv is full. Free some space.\n{mend}"]
    assert grouped(full[:1]) == [f"purchases 2026-01-01: extraction 00c1b9f8d30f: /d/x.csv is full. Free some space.\n{mend}"]


@pytest.mark.parametrize(("why", "groups"), [("no connection (since 2026-01-09T08:00:0{}Z)", 1), ("no connection to host {}", 3)])
def test_what_differs_in_a_moment_alone_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: Shell, why: str, groups: int
) -> None:
    _, asked = entries(tmp_path, monkeypatch, days=3)
    assert len(grouped((entry, why.format(n)) for n, entry in enumerate(asked))) == groups


def test_status_says_why_a_run_that_has_claimed_an_extraction_waits(monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    ledger, asked = entries(configured.folder, monkeypatch, days=3)
    ledger.claim([asked[0].entry_id], ledger.workers.register("run 1f, keen_purchases"))
    assert "has claimed it (since" in configured.run("status").stdout
    ledger.hindered("purchases", f"its extractions can't be submitted: submit of {asked[1].request}: no connection")
    shown = " ".join(configured.run("status").stdout.split())
    assert "has claimed it: its extractions can't be submitted: submit of" in shown
    assert "waits: 2 of them: its extractions can't be submitted" in shown  # one of them is named in the reason


def test_a_process_that_is_no_more_has_claimed_nothing(monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    """After a `kill -9`, `status` named it as at work for as long as its lease."""
    ledger, [asked] = entries(configured.folder, monkeypatch)
    ledger.claim([asked.entry_id], ledger.workers.register("keen-pipeline backfill"))
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    with ledger.engine.begin() as connection:
        connection.execute(sa.text("UPDATE keen_workers SET pid = :pid"), {"pid": gone.pid})
    assert "purchases waits: it waits to be submitted (since" in " ".join(configured.run("status").stdout.split())
    assert "at work" not in configured.run("doctor").stdout


def test_many_other_destinations_are_told_in_a_few_lines(monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    """An `extract` into a folder of its own each day made `status` a line longer each day."""
    ledger, [asked] = entries(configured.folder, monkeypatch)
    for number in range(8):
        other = SqlLedger(ledger.engine, replace(ledger.scope, destination=f"/files/{number}"))
        [one] = other.request([asked.request])
        if number < 7:
            land(other, one.entry.entry_id)
    told = [line for line in configured.run("status").stdout.splitlines() if "this ledger also holds" in line]
    assert (len(told), told[0].endswith(" to /files/7")) == (5, True)
    assert configured.run("status").stdout.endswith("and of 3 other destinations, projects or definitions (--json lists all)\n")
    assert len(json.loads(configured.run("status", "--json").stdout)["other_scopes"]) == 8
    assert configured.run("doctor").stdout.count(" open of ") == 5


def test_status_tells_an_error_of_two_lines_as_two_sentences(monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    ledger, _ = entries(configured.folder, monkeypatch)
    ledger.hindered("purchases", first_line(ConfigurationError("/d/x.csv is full; nothing was published\nFree some space there.")))
    assert "nothing was published. Free some space there. (since" in " ".join(configured.run("status").stdout.split())


def test_equal_reasons_are_told_once_and_open_ones_are_not_to_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: Shell
) -> None:
    _, asked = entries(tmp_path, monkeypatch, days=3)
    assert grouped((entry, f"{entry.request} is refused") for entry in asked) == [
        "purchases 2026-01-01 2026-01-02 2026-01-03: purchases is refused\n  keen-pipeline status purchases"
    ]
    # What differs is the id of the extraction and the name of the file alone.
    full = ((one, f"{one.request}, extraction {one.fingerprint[:24]}: /d/{one.request.partition_key}.csv is full") for one in asked)
    assert [line.partition(":")[0] for line in grouped(full)] == ["purchases 2026-01-01 2026-01-02 2026-01-03"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("one\n\n  two words\nthree   four", ["one", "  two words", "three four"]),
        ("", ["no reason was given"]),
        (f"{'a' * 150}: {'b' * 100}", [f"{'a' * 150}:", f"  {'b' * 100}"]),
        (f"{'a' * 150} {'b' * 100}", ["a" * 150, f"  {'b' * 100}"]),
        ("a" * 250, ["a" * 199, f"  {'a' * 51}"]),
    ],
)
def test_the_first_line_is_short(text: str, lines: list[str]) -> None:
    assert in_lines(text) == lines
