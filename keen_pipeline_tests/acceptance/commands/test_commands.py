"""The other commands on a live service: what they print, how they fail, what they leave alone."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.cli import _COMMANDS
from keen_pipeline.client import KeenClient
from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.landing import FileDestination
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service
from keen_pipeline_tests.acceptance.place import Here
from keen_pipeline_tests.acceptance.processes import COMMAND, Shell


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with live_service(options=["--fail-extraction", "purchases@2026-01-03=3"]) as endpoint:
        with KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client:
            days = [f"2026-01-0{day}" for day in range(1, 6)]
            client.add_events(
                {
                    "purchases": [
                        {"keen": {"timestamp": f"{d}T12:00:00Z"}, "amount": n + 0.5, "who": "é,\n"} for n, d in enumerate(days)
                    ]
                    + [{"keen": {"timestamp": "2026-01-01T12:00:00Z"}, "nasty": "\x9b31m"}]
                }
            )
        yield endpoint


def settings_of(endpoint: Endpoint, folder: Path) -> dict[str, str]:
    (folder / "collections.yaml").write_text('collections: [{name: purchases, start_date: "2026-01-01"}]')
    return {
        "KEEN_BASE_URL": endpoint.base_url,
        "KEEN_PROJECT_ID": endpoint.project_id,
        "KEEN_READ_KEY": endpoint.read_key,
        "KEEN_WRITE_KEY": endpoint.write_key,
        "KEEN_PIPELINE_COLLECTIONS": "collections.yaml",
        "KEEN_PIPELINE_RETRY_SECONDS": "0.1",
    }


@pytest.fixture
def shell(tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(tmp_path, settings_of(endpoint, tmp_path), monkeypatch, capsys)


@pytest.fixture
def process(tmp_path: Path, endpoint: Endpoint) -> Shell:
    """The same as a user's shell runs it."""
    return Shell(tmp_path, settings_of(endpoint, tmp_path))


def collections_of(shell: Here) -> list[dict[str, Any]]:
    """The rows of `status --json`."""
    done = shell.run("status", "--json")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["collections"])


def test_an_extraction_lands_and_says_what(shell: Here) -> None:
    words = [
        "extract",
        "purchases",
        "--from",
        "2026-01-01",
        "--to",
        "2026-01-03",
        "--filter",
        "body:amount gt 1",
        "--to",
        "files",
        "--json",
    ]
    done = shell.run(*words)
    assert done.returncode == 0, done.stderr
    [landing] = json.loads(done.stdout)["landings"]
    assert (landing["collection"], landing["events"]) == ("purchases", 1)
    assert landing["timeframe"] == {"start": "2026-01-01T00:00:00Z", "end": "2026-01-03T00:00:00Z"}
    data = Path(landing["uri"]).read_bytes()
    assert data.decode() == 'header:timestamp,body:amount,body:who\n2026-01-02T12:00:00.000Z,1.5,"é,\n"\n'
    again = json.loads(shell.run(*words).stdout)["landings"]
    assert again[0]["extraction_id"] == landing["extraction_id"]  # unchanged: kept, not asked again


def test_an_extraction_with_other_filters_says_that_it_replaces_the_file_of_the_same_timeframe(shell: Here) -> None:
    words = ["extract", "purchases", "--from", "2026-01-01", "--to", "2026-01-03", "--to", "files", "--filter"]
    assert shell.run(*words, "body:amount lt 1").stderr == ""
    assert shell.run(*words, "body:amount lt 1").stderr == ""
    again = shell.run(*words, "body:amount gt 1")
    path = "purchases/20260101T000000Z_20260103T000000Z.csv"
    said = f"{path} at files is of other filters or another mask, and is replaced; another --to keeps both\n"
    assert (again.returncode, again.stderr) == (0, said)


def test_unique_values_are_one_a_line_in_order(shell: Here) -> None:
    done = shell.run("list", "purchases", "body:amount", "--filter", "body:amount lt 2")
    assert (done.returncode, done.stdout.split()) == (0, ["0.5", "1.5"])
    window = ["--from", "2026-01-02", "--to", "2026-01-04T00:00:00+00:00"]
    assert json.loads(shell.run("list", "purchases", "body:amount", *window, "--json").stdout) == [1.5, 2.5]
    assert shell.run("list", "purchases", "body:who", *window).stdout == '"é,\\n"\n'
    assert shell.run("list", "purchases", "body:nasty").stdout == '"\\u009b31m"\n'  # which a terminal would obey
    assert "\x9b" not in shell.run("list", "purchases", "body:nasty", "--json").stdout
    nothing = shell.run("list", "purchases", "body:amont", *window)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert nothing.stderr == "no event of purchases that was asked for has body:amont\n"


def test_a_backfill_names_what_failed_and_the_next_one_mends_it(shell: Here) -> None:
    words = ["backfill", "purchases", "--from", "2026-01-02", "--to", "2026-01-05", "--json"]
    done = shell.run(*words)
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert [row["partition"] for row in document["landings"]] == ["2026-01-02", "2026-01-04", "2026-01-05"]
    [failed] = document["failed"]
    assert failed["partition"] == "2026-01-03"
    assert "(3 attempts since " in failed["error"]
    said = done.stderr.strip().splitlines()
    first = next(number for number, line in enumerate(said) if line.startswith("keen-pipeline: "))
    assert said[first] == "keen-pipeline: 1 of 4 partitions failed"
    assert said[first + 1].startswith("purchases 2026-01-03: the service reports the extraction as failed")
    assert said[first + 2 :] == ["  keen-pipeline retry purchases 2026-01-03"]
    [row] = collections_of(shell)
    assert (row["landed"], [one["partition"] for one in row["given_up"]]) == (3, ["2026-01-03"])
    mended = shell.run(*words)
    assert (mended.returncode, len(json.loads(mended.stdout)["landings"])) == (0, 4)


def test_a_backfill_says_where_a_file_has_fewer_events_than_before(shell: Here) -> None:
    words = ["backfill", "purchases", "--from", "2026-01-01", "--to", "2026-01-02"]
    assert "gone at the service" not in shell.run(*words).stderr
    with closing(sqlite3.connect(shell.folder / "data" / "ledger.db", isolation_level=None)) as ledger:
        ledger.execute("UPDATE keen_entries SET records = 9 WHERE partition_key = '2026-01-02'")
    done = shell.run(*words, "--force")
    said = "purchases[2026-01-02]: 1 events, the file that it replaced had 9: the others are gone at the service"
    assert (done.returncode, done.stderr.splitlines()) == (0, [said])


def test_a_backfill_that_does_not_wait_leaves_the_rest_to_whoever_comes_next(shell: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["backfill", "purchases", "--from", "2026-01-01", "--to", "2026-01-02", "--json"]
    asked = shell.run(*words, "--no-wait")
    assert (asked.returncode, json.loads(asked.stdout)) == (0, {"landings": [], "failed": []})
    assert "2 submitted, 0 landed before" in asked.stderr
    [row] = collections_of(shell)
    waiting = {one["partition"]: one["extraction_id"] for one in row["open"]}
    assert sorted(waiting) == ["2026-01-01", "2026-01-02"]
    assert not (shell.folder / "data" / "landing" / "purchases").exists()
    done = json.loads(shell.run(*words).stdout)["landings"]
    assert {row["partition"]: row["extraction_id"] for row in done} == waiting  # adopted, not asked again
    assert "0 submitted, 2 landed before" in shell.run(*words, "--no-wait").stderr

    def away(*_: object) -> int:
        raise ServiceUnavailableError("the bucket is away")

    monkeypatch.setattr(FileDestination, "exists", away)
    assert shell.run(*words, "--no-wait").stderr.splitlines()[-1] == "purchases: the bucket is away"


@pytest.mark.parametrize(
    ("words", "offered"),
    [("keen-pipeline ba", ["backfill"]), ("keen-pipeline backfill pu", ["purchases"]), ("keen-pipeline backfill x", [])],
)
def test_the_shell_completes_commands_and_collections(process: Shell, words: str, offered: list[str]) -> None:
    number = str(len(words.split()) - 1)
    process.env = {**process.env, "_KEEN_PIPELINE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number}
    assert [line.removeprefix("plain,") for line in process.run().stdout.split()] == offered


def test_a_process_ends_with_the_status_of_its_command(process: Shell) -> None:
    done = process.run("backfill", "purchases", "--from", "2026-01-01", "--to", "2026-01-01")
    assert (done.returncode, "2026-01-01.csv" in done.stdout) == (0, True), done.stderr
    refused = process.run("extract", "nosuch", "--to", "files")
    assert (refused.returncode, refused.stderr) == (1, "keen-pipeline: the service has no collection 'nosuch'; it has: purchases\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
@pytest.mark.parametrize("words", [["status"], ["status", "--json"]])
def test_a_full_disk_under_its_output_is_told_in_one_line(process: Shell, words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, *words]
        env, folder = process.environment(), process.folder
        done = subprocess.run(command, cwd=folder, env=env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "keen-pipeline: its output: No space left on device\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["status"], ["docs", "first-hour"], ["extract", "nosuch", "--to", "files"]])
def test_one_whose_streams_are_closed_prints_nowhere(process: Shell, words: list[str]) -> None:
    """As a service manager may start it: what is opened next, the ledger, is not what is printed to."""
    opened = "import os, sys; [os.close(n) for n in range(3)]; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    command = [sys.executable, "-c", opened, *COMMAND[1:], *words]
    done = subprocess.run(command, cwd=process.folder, env=process.environment(), capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (int(words[0] == "extract"), b"", b"")
    assert process.run("status").returncode == 0
    for file in (process.folder / "data").rglob("*"):
        assert not file.is_file() or b"keen-pipeline: " not in file.read_bytes()


def test_doctor_finds_all_well(shell: Here) -> None:
    done = shell.run("doctor")
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert (done.returncode, wrong, done.stdout.count("ok ")) == (0, [], 13)
    assert list((shell.folder / "data" / "landing").iterdir()) == []  # the probe is gone


def test_doctor_says_what_to_fix(shell: Here) -> None:
    shell.env = {**shell.env, "KEEN_READ_KEY": "wrong", "KEEN_PIPELINE_DESTINATION": "/proc/nowhere"}
    done = shell.run("doctor")
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    assert [line.split(":")[0].split()[1] for line in wrong] == ["key", "destination"]
    assert "KEEN_READ_KEY" in wrong[0]


def test_a_cancel_of_what_is_not_open_names_few_of_those_that_are(shell: Here) -> None:
    assert shell.run("backfill", "purchases", "--from", "2026-02-01", "--to", "2026-02-20", "--no-wait").returncode == 0
    done = shell.run("cancel", "purchases", "2026-03-01")
    few = ", ".join(f"2026-02-0{day}" for day in range(1, 6))
    said = f"keen-pipeline: purchases: 2026-03-01 is not open; open is {few} and 15 more\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_retry_without_the_key_of_a_mask_leaves_what_is_open_alone(shell: Here) -> None:
    masked = 'collections: [{name: purchases, start_date: "2026-01-01", mask: {"body:who": hash}}]'
    (shell.folder / "collections.yaml").write_text(masked)
    without, shell.env = shell.env, {**shell.env, "KEEN_PIPELINE_MASK_KEY": "0123456789abcdef"}
    assert shell.run("backfill", "purchases", "--from", "2026-01-01", "--to", "2026-01-01", "--no-wait").returncode == 0
    [before] = collections_of(shell)
    shell.env = without
    done = shell.run("retry", "purchases", "2026-01-01")
    assert (done.returncode, "set KEEN_PIPELINE_MASK_KEY" in done.stderr) == (1, True)
    [after] = collections_of(shell)
    assert [one["extraction_id"] for one in after["open"]] == [one["extraction_id"] for one in before["open"]] != []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["extract", "nosuch", "--to", "files"], 1, "no collection 'nosuch'"),
        (["extract", "a$x", "--to", "files"], 2, "not a legal name"),
        (["extract", "purchases", "--from", "2026-01-02", "--to", "2026-01-01", "--to", "files"], 2, "before --from"),
        (["extract", "purchases", "--from", "soon", "--to", "2026-01-01", "--to", "files"], 2, "--from"),
        (["extract", "purchases", "--from", "2036-01-02", "--to", "2036-01-03", "--to", "files"], 2, "future"),
        (["extract", "purchases", "--timeframe", "last_0_days", "--to", "files"], 2, "timeframe"),
        (["extract", "purchases", "--filter", "body:amount like 3", "--to", "files"], 2, "unknown operator 'like'"),
        (["extract", "purchases", "--filter", "body:amount gt EUR", "--to", "files"], 2, "not JSON"),
        (["extract", "purchases", "--filter", "body:amount gt", "--to", "files"], 2, "NAME OP JSON"),
        (["extract", "purchases", "--filter", f"body:amount gt {'9' * 5000}", "--to", "files"], 2, "not JSON"),
        (["extract", "purchases", "--filter", f"body:amount in {'[' * 5000}", "--to", "files"], 2, "not JSON"),
        (["extract", "purchases"], 2, "--to"),
        (["list", "purchases", "body:amount", "--from", "2026-01-01"], 2, "belong together"),
        (["list", "nosuch", "body:amount"], 1, "the service has no collection 'nosuch'; it has: purchases"),
        (["retry", "purchases", "2026-13-01"], 2, "not one of its daily partitions"),
        (["retry", "purchases", "2036-01-01"], 2, "future"),
        (["retry", "purchases", "9999-12-31"], 2, "future"),
        (["extract", "purchases", "--email", "nobody", "--to", "files"], 2, "email must be one address"),
        (["extract", "purchases", "--from", "2026-01-01", "--to", "files"], 2, "belong together"),
        (["backfill", "nosuch", "--from", "2026-01-01", "--to", "2026-01-02"], 1, "not configured"),
        (["backfill", "purchases", "--from", "2026-01-01", "--to", "2036-01-01"], 2, "future"),
        (["backfill", "purchases", "--from", "2025-01-01", "--to", "2026-01-01"], 2, "start date"),
        (["extract", "purchases", "--to", ""], 2, "--to must name one folder"),
        (["verify", "--from", "2026-13-01"], 2, "isn't a partition key"),
        (["verify", "--to", "2026-01-01-24:00"], 2, "isn't a partition key"),
        (["load", "a$x", "collections.yaml"], 2, "not a legal name"),
        (["serve", "--fail-extraction", "purchases"], 2, "expected COLLECTION=N"),
        (["serve", "--cache-mib", "-5"], 2, "cache_mib must lie between"),
        (["serve", "--catalogue", "postgresql://u:p@h/db"], 2, "a password on a command line"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_trace(shell: Here, words: list[str], code: int, says: str) -> None:
    done = shell.run(*words)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert (done.stderr.strip().count("\n"), len(done.stderr) < 200) == (0, True)
    [row] = collections_of(shell)
    assert (row["landed"], row["open"], row["given_up"], row["gaps"]) == (0, [], [], [])
    assert not (shell.folder / "files").exists()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KEEN_READ_KEY", "wrong", "KEEN_READ_KEY"),
        ("KEEN_READ_KEY", "", "KEEN_READ_KEY"),
        ("KEEN_PROJECT_ID", "", "KEEN_PROJECT_ID"),
        ("KEEN_PIPELINE_POLL_SECONDS", "x", "KEEN_PIPELINE_POLL_SECONDS"),
        ("KEEN_PIPELINE_DESTINATION", "s3:/files", "s3:/files: it is neither a path nor a URI"),
        ("KEEN_PIPELINE_LEDGER_URL", "nonsense", "KEEN_PIPELINE_LEDGER_URL"),
        ("KEEN_PIPELINE_COLLECTIONS", "none.yaml", "none.yaml"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(shell: Here, name: str, value: str, says: str) -> None:
    good = dict(shell.env)
    shell.env = {**good, name: value}
    done = shell.run("backfill", "purchases", "--from", "2026-01-01", "--to", "2026-01-01")
    first = done.stderr.splitlines()[0]
    assert (done.returncode, says in first, len(first) < 220, "Traceback" in done.stderr) == (1, True, True, False), done.stderr
    if value != "wrong":
        return
    assert good["KEEN_PROJECT_ID"] in done.stderr
    shell.env = good
    [row] = collections_of(shell)
    assert (row["open"], row["landed"]) == ([], 0)


def test_a_misspelt_variable_is_named_by_every_command(shell: Here) -> None:
    shell.env = {**shell.env, "KEEN_PIPELINE_LEGDER_URL": "sqlite:///elsewhere.db"}
    done = shell.run("status", "--json")
    said = "KEEN_PIPELINE_LEGDER_URL isn't a setting of keen_pipeline; `keen-pipeline doctor` names those that are"
    assert (done.returncode, done.stderr.splitlines()) == (0, [said])
    assert json.loads(done.stdout)["collections"]
    assert said not in shell.run("doctor").stderr


def test_what_stands_in_dagsters_env_file_and_not_in_the_environment_is_named(shell: Here) -> None:
    (shell.folder / ".env").write_text(
        "# KEEN_NO=1\nOTHER=1\nKEEN_MASTER_KEY=\nexport KEEN_WRITE_KEY=s3cret\n KEEN_PIPELINE_NAME = 'shop'\n"
    )
    done = shell.run("status")
    said = "KEEN_PIPELINE_NAME: set in .env, which Dagster reads and this program doesn't: set -a; . ./.env; set +a"
    assert (done.returncode, done.stderr.splitlines()) == (0, [said])


def test_options_of_the_destination_are_not_those_of_another_kind_of_place(shell: Here) -> None:
    away = {"KEEN_PIPELINE_DESTINATION": "s3://bucket/x", "KEEN_PIPELINE_DESTINATION_OPTIONS": '{"endpoint": "http://127.0.0.1:9"}'}
    shell.env = {**shell.env, **away}
    done = shell.run("extract", "purchases", "--to", "files", "--json")
    assert (done.returncode, len(json.loads(done.stdout)["landings"])) == (0, 1), done.stderr


def test_a_port_in_use_is_named(shell: Here) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for words in (["dev", "--port", port], ["serve", "--port", port, "--data", "elsewhere"]):
            done = shell.run(*words)
            assert (done.returncode, port in done.stderr) == (1, True), done.stderr
    assert not (shell.folder / "elsewhere").exists()


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_command_has_help_with_an_example(shell: Here, name: str) -> None:
    done = shell.run(name, "--help")
    assert done.returncode == 0
    assert f"Example: keen-pipeline {name}" in " ".join(done.stdout.split())


def test_help_of_the_whole_needs_no_library_but_click() -> None:
    code = (
        "import sys\nfrom keen_pipeline.cli import cli\ncli(['--help'], standalone_mode=False)\n"
        "heavy = {'dagster', 'duckdb', 'pyarrow', 'rich', 'sqlalchemy', 'urllib3', 'numpy', 'yaml'}\n"
        "sys.exit(str(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
    assert all(name in done.stdout for name in _COMMANDS)


def test_without_an_account_the_embedded_service_runs_for_the_commands_time(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    loaded = shell.run("load", "purchases", "-", stdin='{"amount": 1, "keen": {"timestamp": "2026-01-01T00:00:00Z"}}\n')
    assert loaded.returncode == 0, loaded.stderr
    assert shell.run("list", "purchases", "body:amount").stdout == "1\n"
    assert shell.await_nothing_left() == []


@pytest.mark.parametrize("words", [["dev"], ["serve", "--port", "0"], ["doctor"], ["list", "purchases", "amount"]])
def test_a_folder_that_cant_be_written_is_told_in_one_line(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "data").touch()
    done = Shell(tmp_path).run(*words)
    assert (done.returncode, done.stderr.count("\n"), bool(re.search(r"\bdata\S*: ", done.stderr))) == (1, 1, True), done.stderr
