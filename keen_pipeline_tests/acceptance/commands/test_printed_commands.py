"""The commands that are printed for people: a shell finds them, reads them as they are meant, and they mend what they stand for."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
import pytest

from keen_pipeline.cli import cli, common
from keen_pipeline.collection import Collection
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Limits
from keen_pipeline.partitions import partitions_between
from keen_pipeline.pipeline import partition_request
from keen_pipeline.pipeline.told import Group, command_line, grouped, summary
from keen_pipeline_tests.acceptance.commands.test_messages import WORDS, configured, entries
from keen_pipeline_tests.acceptance.processes import Shell
from keen_pipeline_tests.ledgers import land

__all__ = ["configured"]


def test_the_next_command_is_one_that_the_shell_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.shutil, "which", lambda _: None)
    for argument, command in (
        (".venv/bin/keen-pipeline", ".venv/bin/keen-pipeline"),
        ("/x/__main__.py", f"{sys.executable} -m keen_pipeline"),
    ):
        monkeypatch.setattr(sys, "argv", [argument, "demo"])
        assert common.program() == command
    told = "a keen-pipeline backfill (process 5): `keen-pipeline retry x` or KEEN_PIPELINE_NAME=a keen-pipeline status"
    monkeypatch.setattr(sys, "argv", ["/my env/bin/keen-pipeline", "status"])
    here = "'/my env/bin/keen-pipeline'"
    assert common.as_called(told) == told.replace("keen-pipeline", here)
    assert common.as_called(f"keen-pipeline: no\n  {here} retry x") == f"keen-pipeline: no\n  {here} retry x"
    monkeypatch.setattr(common.shutil, "which", lambda _: "/usr/bin/keen-pipeline")
    assert (common.program(), common.as_called(told)) == ("keen-pipeline", told)


def test_a_command_that_is_called_by_its_path_prints_others_so(configured: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from cron, or where nobody has activated the environment: what was printed had been no command there."""
    ledger, [asked] = entries(configured.folder, monkeypatch)
    ledger.fail(asked.entry_id, WORDS, limits=Limits(), final=True)
    program, env = str(Path(sys.executable).with_name("keen-pipeline")), configured.environment() | {"PATH": "/usr/bin:/bin"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=configured.folder, env=env, capture_output=True, text=True, timeout=120)

    [line] = [line for line in run(program, "status").stdout.splitlines() if " retry " in line]
    assert run(*shlex.split(line)).stdout[:18] == "1 asked for again,"


@pytest.mark.parametrize("status", [404, 401])
def test_a_collection_that_the_service_does_not_have_is_to_leave_the_configuration(status: int) -> None:
    told = summary(6, [], [("purchases", f"count of purchases (project 5f): not found (HTTP {status} Some)")]).splitlines()
    assert told[-1] == "  keen-pipeline doctor"  # without a remark: not every shell takes one
    assert ("leaves the configuration" in told[-2]) is (status == 404)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("submit of {} (project 5f): not found (HTTP 404 ResourceNotFoundError)", "keen-pipeline doctor"),
        ("the service reports the extraction as failed", "keen-pipeline retry purchases 2026-01-01 2026-01-02"),
    ],
)
def test_the_command_is_one_that_can_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: Shell, reason: str, command: str
) -> None:
    ledger, asked = entries(tmp_path, monkeypatch, days=2)
    ended = [ledger.fail(one.entry_id, reason.format(one.request), limits=Limits(), final=True) for one in asked]
    (told,) = grouped([(one, one.error or "") for one in ended if one is not None])
    for shown in (told, configured.run("status").stdout):
        [line] = [line for line in shown.splitlines() if line.startswith("  keen-pipeline")]
        assert line.strip().startswith(command)
        assert ("retry" in line) is ("retry" in command)


@pytest.mark.parametrize("name", ["-x", "--force", "Sign 'Ups", "plain"])
def test_a_printed_command_is_read_as_it_is_meant(name: str) -> None:
    keys = ("2026-01-01", "2026-01-02")
    printed = [Group(name, keys, "it failed", verb) for verb in ("retry", "backfill", "status")]
    lines = [group.command for group in printed] + [command_line("verify", name, options=("--from", *keys[:1]))]
    read = []
    for program, verb, *words in map(shlex.split, lines):
        assert program == "keen-pipeline"
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        read.append({k: v for k, v in command.make_context(verb, words).params.items() if v})
    assert read == [
        {"collection": name, "partitions": keys},
        {"collections": (name,), "first": keys[0], "last": keys[1]},
        {"collection": name},
        {"collection": name, "first": keys[0]},
    ]


def test_what_status_prints_about_a_name_like_an_option_can_be_pasted(configured: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, _ = entries(configured.folder, monkeypatch)
    other, day = Collection("-x", "2026-01-01"), datetime(2026, 1, 1, tzinfo=timezone.utc)
    [asked] = ledger.request([partition_request(other, p) for p in partitions_between(other, day, day + timedelta(days=1))])
    (configured.folder / "collections.yaml").write_text("collections: [{name: '-x', start_date: 2026-01-01}]")
    ledger.fail(asked.entry.entry_id, WORDS, limits=Limits(), final=True)
    [line] = [line for line in configured.run("status").stdout.splitlines() if line.startswith("  keen-pipeline")]
    done = configured.run(*shlex.split(line)[1:])
    assert (done.returncode, done.stdout[:18]) == (0, "1 asked for again,"), done.stderr
    (configured.folder / "collections.yaml").write_text("collections: [{name: purchases, start_date: 2026-01-01}]")
    [line] = [line for line in configured.run("status").stdout.splitlines() if line.startswith("-x is not configured")]
    done = configured.run(*shlex.split(line.partition("keen-pipeline ")[2]))
    assert (done.returncode, done.stdout[:11]) == (0, "1 cancelled"), done.stderr


@pytest.mark.parametrize("is_given_up", [True, False])
def test_what_was_given_up_over_an_older_file_is_retried_and_a_file_alone_is_not(
    monkeypatch: pytest.MonkeyPatch, configured: Shell, is_given_up: bool
) -> None:
    ledger, [first] = entries(configured.folder, monkeypatch)
    land(ledger, first.entry_id)
    if is_given_up:
        [again] = ledger.request([first.request], keep=lambda _: False)
        ledger.fail(again.entry.entry_id, "no", limits=Limits(), final=True)
    assert ("keen-pipeline retry purchases 2026-01-01" in configured.run("status").stdout) is is_given_up
    done = configured.run("retry", "purchases", "2026-01-01")
    assert done.returncode == (0 if is_given_up else 1), done.stderr
    assert ("backfill purchases --from 2026-01-01 --to 2026-01-01 --force" in done.stderr) is not is_given_up
    assert len(ledger.open_entries()) == is_given_up


def test_a_retry_of_several_leaves_out_what_has_landed_since(monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    ledger, asked = entries(configured.folder, monkeypatch, days=4)
    for entry in asked[1:3]:
        ledger.fail(entry.entry_id, WORDS, limits=Limits(), final=True)
    for entry in (asked[0], asked[3]):
        land(ledger, entry.entry_id)
    done = configured.run("retry", "purchases", *(entry.request.partition_key for entry in asked))
    assert (done.returncode, done.stdout[:18]) == (0, "2 asked for again,"), done.stderr
    first, *again = done.stderr.splitlines()
    assert first == "purchases 2026-01-01 2026-01-04: landed already; to extract it again:"
    days = ("2026-01-01", "2026-01-04")  # and none between them
    assert again == [f"  keen-pipeline backfill purchases --from {day} --to {day} --force" for day in days]
    assert [entry.request.partition_key for entry in ledger.open_entries()] == ["2026-01-02", "2026-01-03"]


def test_a_command_for_more_partitions_than_it_can_name_is_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch, configured: Shell
) -> None:
    """A retry of the first 31 of them had been printed, without a word of the others."""
    ledger, asked = entries(configured.folder, monkeypatch, days=40)
    for entry in asked:
        ledger.fail(entry.entry_id, WORDS, limits=Limits(), final=True)
    [line] = [line for line in configured.run("status").stdout.splitlines() if line.startswith("  keen-pipeline")]
    assert line.strip() == "keen-pipeline backfill purchases --from 2026-01-01 --to 2026-02-09 --no-wait"


def test_what_is_open_at_another_destination_can_be_found(monkeypatch: pytest.MonkeyPatch, configured: Shell) -> None:
    """As an `extract` that was killed leaves it: nothing had said how to get there."""
    ledger, [asked] = entries(configured.folder, monkeypatch)
    place = str(configured.folder / "my files")
    SqlLedger(ledger.engine, replace(ledger.scope, destination=place)).request([asked.request])
    [line] = [line for line in configured.run("status").stdout.splitlines() if line.startswith("  what is open there: ")]
    variable, *words = shlex.split(line.removeprefix("  what is open there: "))
    assert words == ["keen-pipeline", "status"]
    configured.env = {**configured.env, **dict([variable.split("=")])}
    assert configured.run("status").stdout.splitlines()[0].endswith(f" to {place}")
