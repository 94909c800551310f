"""Services as processes: found, started, shared, ended; ports and folders in use; keys and files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest.mock import Mock

import pytest

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service import embedded
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.credentials import FILE_NAME, complete_credentials, load_credentials, write_private
from keen_pipeline.service.endpoint import exclusive
from keen_pipeline.service.http.server.serve import _Server
from keen_pipeline_tests.service.environment import clean_environment, gone
from keen_pipeline_tests.service.http_client import Http


def serve(*arguments: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "keen_pipeline", "serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(**env))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_where_it_listens_and_ends_on_a_signal(data: Path, number: signal.Signals) -> None:
    process = serve(
        "--data", str(data), "--port", "0", KEEN_PROJECT_ID="shop", KEEN_READ_KEY="r1", KEEN_WRITE_KEY="w1", KEEN_MASTER_KEY="m1"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "project shop\n"
    match = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
    assert match is not None
    assert process.stdout.readline() == f"keys in {data / 'credentials.json'}\n"
    assert process.stdout.readline() == f"open {match[1]}/\n"  # no key: a supervisor keeps this as a log
    found = embedded.find(data)
    assert found == embedded.Endpoint(match[1], "shop", "r1", "w1", "m1")
    assert "r1" not in repr(found)
    written = json.loads((data / "endpoint.json").read_text())
    assert (written["url"], written["pid"], written["project_id"]) == (match[1], process.pid, "shop")
    for name in ("endpoint.json", "credentials.json"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert not (data / "endpoint.json").exists()
    assert embedded.find(data) is None


def test_in_a_terminal_it_shows_a_link_with_the_read_key(data: Path) -> None:
    terminal, side = os.openpty()
    command = [sys.executable, "-m", "keen_pipeline", "serve", "--data", str(data), "--port", "0"]
    env = clean_environment(KEEN_PROJECT_ID="shop", KEEN_READ_KEY="r1", KEEN_WRITE_KEY="w1", KEEN_MASTER_KEY="m1")
    process = subprocess.Popen(command, stdout=side, stderr=subprocess.DEVNULL, env=env)
    os.close(side)
    try:
        with os.fdopen(terminal, encoding="utf-8") as lines:
            shown = [lines.readline() for _ in range(4)]
        assert re.fullmatch(r"open http://127\.0\.0\.1:\d+/#key=r1\n", shown[-1]), shown
    finally:
        process.kill()
        process.wait()


def test_everything_it_makes_is_its_owners_alone(data: Path) -> None:
    data.mkdir(mode=0o755)
    with embedded.start(data, env=clean_environment()) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        http.extract("purchases")
        http.add("purchases", {"a": 2})
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [data, *data.rglob("*")]}
    assert {path.name for path in modes} >= {"state.db", "credentials.json", "endpoint.json", "results", "events"}
    assert {str(path): oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}


def test_it_starts_whatever_the_encoding_of_its_output_is(tmp_path: Path) -> None:
    with embedded.start(tmp_path / "dä", env=clean_environment(PYTHONIOENCODING="ascii")) as service:
        assert embedded.find(tmp_path / "dä") == service.endpoint


def test_no_link_with_a_key_is_printed_for_other_machines(data: Path) -> None:
    process = serve("--data", str(data), "--port", "0", "--host", "0.0.0.0", KEEN_READ_KEY="r1")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(20) == 0
    assert "keys in" in lines[2]
    assert "r1" not in "".join([*lines, rest])
    assert "open " not in rest


def test_a_folder_that_holds_other_things_is_refused_and_nothing_of_it_is_touched(tmp_path: Path) -> None:
    for name in ("work/paper.txt", "spill/z", "events/shop/e.csv", "results/q.part", ".git/HEAD"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    tmp_path.chmod(0o755)
    there = {path: path.stat().st_mode for path in [tmp_path, *tmp_path.rglob("*")]}
    out, errors = serve("--data", str(tmp_path), "--port", "0", "--idle-exit", "1").communicate(timeout=30)
    assert errors.startswith(f"keen-pipeline: service: {tmp_path} holds other things, such as events; choose an empty one")
    assert out == ""
    assert {path: path.stat().st_mode for path in [tmp_path, *tmp_path.rglob("*")]} == there


def test_a_link_whose_volume_is_not_mounted_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "volume" / "keen")
    with pytest.raises(ConfigurationError, match="a link to what is not there"), exclusive(tmp_path / "data"):
        raise AssertionError
    assert not (tmp_path / "volume").exists()


def test_a_folder_that_was_made_ready_or_restored_in_part_is_taken(tmp_path: Path) -> None:
    for name in ("events/lost+found", "results/lost+found", "lost+found"):  # disks of their own
        (tmp_path / "new" / name).mkdir(parents=True)
    (tmp_path / "new" / "credentials.json.7.tmp").touch()
    with embedded.start(tmp_path / "new", env=clean_environment()) as service:
        Http(service.endpoint).add("purchases", {"a": 1})
    for name in ("events", "log"):
        shutil.copytree(tmp_path / "new" / name, tmp_path / "restored" / name)
    with embedded.start(tmp_path / "restored", env=clean_environment()) as service:
        assert Http(service.endpoint).query("count", "purchases") == 1


def test_a_copy_of_a_running_folder_is_another_service(data: Path, tmp_path: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        shutil.copytree(data, tmp_path / "copy")
        assert embedded.find(tmp_path / "copy") is None
        with embedded.start(tmp_path / "copy", env=clean_environment()) as second:
            assert embedded.find(tmp_path / "copy") == second.endpoint != service.endpoint
        assert embedded.find(data) == service.endpoint


def test_a_port_in_use_is_named_and_nothing_is_touched(data: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        process = serve("--data", str(data), "--port", str(port))
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert errors == f"keen-pipeline: service: port {port} on 127.0.0.1 is in use; choose another with --port\n"
    assert not data.exists()


def test_a_full_disk_is_told_in_one_line_and_keeps_no_half_of_a_file(data: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from keen_pipeline.cli import main; main()"
    command = [sys.executable, "-B", "-c", limited, "serve", "--data", str(data), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=60)
    assert (done.returncode, done.stderr) == (1, f"keen-pipeline: {data / 'credentials.json'}: File too large\n")
    assert not list(data.glob("*.tmp"))


def test_a_second_service_on_a_folder_is_refused_and_the_first_one_named(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        with pytest.raises(ConfigurationError, match=re.escape(service.endpoint.base_url)):
            embedded.start(data, env=clean_environment())
        assert embedded.find(data) == service.endpoint


def test_a_file_system_without_locks_is_not_taken_for_a_folder_in_use(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(ConfigurationError, match=r"lock: the file system takes no locks \(No locks available\)"), exclusive(data):
        pass


def test_a_password_on_the_command_line_is_refused_and_not_repeated(data: Path) -> None:
    for url in ("postgresql://me:very-secret@db/keen", "postgresql://db/keen?user=me&password=very-secret"):
        process = serve("--data", str(data), "--port", "0", "--catalogue", url, "--storage", str(data / "storage"))
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out) == (2, "")
        assert "KEEN_PIPELINE_SERVICE_CATALOGUE_URL" in errors
        assert "very-secret" not in errors


@pytest.mark.parametrize("url", ["keen.example.com", "https://", "https://keen.example.com/?a=1", "ftp://keen.example.com"])
def test_a_public_url_that_no_link_can_begin_with_is_refused(data: Path, url: str) -> None:
    process = serve("--data", str(data), "--port", "0", "--idle-exit", "1", "--public-url", url)
    assert "Error: service: --public-url must be a " in process.communicate(timeout=30)[1]
    assert (process.returncode, data.exists()) == (2, False)


def test_an_empty_host_is_not_taken_for_every_address(data: Path) -> None:
    process = serve("--data", str(data), "--port", "0", "--idle-exit", "1", "--host", "")
    assert "--host is empty" in process.communicate(timeout=30)[1]
    assert (process.returncode, data.exists()) == (2, False)


def test_a_place_for_results_that_takes_none_is_refused_at_the_start(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = serve("--data", str(data), "--port", "0", "--idle-exit", "1", "--results-uri", str(tmp_path / "file" / "kept"))
    assert str(tmp_path / "file" / "kept") in process.communicate(timeout=30)[1].splitlines()[0]
    assert (process.returncode, data.exists()) == (1, False)


def test_a_catalogue_without_a_storage_is_refused(data: Path) -> None:
    process = serve("--data", str(data), "--port", "0", "--catalogue", "postgresql://db/keen")
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "--catalogue and --storage go together" in errors


def test_a_child_of_a_command_joins_no_shared_storage(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_SERVICE_CATALOGUE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("KEEN_PIPELINE_SERVICE_STORAGE", str(tmp_path / "storage"))
    with embedded.start(data) as service:
        Http(service.endpoint).add("purchases", {"a": 1})
    assert (data / "state.db").is_file()
    assert not (tmp_path / "storage").exists()


def test_keys_are_made_once_and_kept(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        first = service.endpoint
    with embedded.start(data, env=clean_environment()) as service:
        assert (service.endpoint.project_id, service.endpoint.read_key) == (first.project_id, first.read_key)
    with embedded.start(data, env=clean_environment(KEEN_PROJECT_ID="another")) as service:
        service._log.seek(0)
        (told,) = [line for line in map(json.loads, service._log) if line["level"] == "warning"]
        assert (told["project"], told["other"]) == ("another", first.project_id)
    with pytest.raises(ConfigurationError, match="must differ"):
        embedded.start(data, env=clean_environment(KEEN_READ_KEY="same", KEEN_WRITE_KEY="same"))


@pytest.mark.parametrize("equal", [("read_key", "write_key"), ("read_key", "master_key"), ("write_key", "master_key")])
def test_no_two_keys_are_equal(data: Path, equal: tuple[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="must differ"):
        complete_credentials(ServiceConfig(data, **dict.fromkeys(equal, "same")), None)
    assert complete_credentials(ServiceConfig(data, read_key="same"), None).read_key == "same"


@pytest.mark.parametrize("key", ["", None, 7])
def test_a_key_that_somebody_made_empty_is_no_key(data: Path, key: object) -> None:
    kept = dict.fromkeys(("project_id", "read_key", "write_key", "master_key", "signing_key"), "x" * 32)
    write_private(data / FILE_NAME, json.dumps({**kept, "signing_key": key}))
    with pytest.raises(ConfigurationError, match="repair it, or remove it for a new project id and new keys"):
        load_credentials(data)


def test_a_project_is_found_under_its_id_whatever_an_address_makes_of_it(data: Path) -> None:
    with embedded.start(data, env=clean_environment(KEEN_PROJECT_ID="acme:prod/eu")) as service:
        http = Http(service.endpoint)
        assert http.json("GET", "/3.0/projects/acme%3Aprod%2Feu/events") == []
        (project,) = http.json("GET", "/3.0/projects")
        assert http.json("GET", project["events_url"]) == []
        assert http.request("GET", "/3.0/projects/acme%3Aprod/events").status == 404


def test_a_child_dies_with_its_parent(data: Path) -> None:
    code = "import os, sys; from pathlib import Path; from keen_pipeline.service import embedded\n"
    code += "print(embedded.start(Path(sys.argv[1])).pid, flush=True); os.kill(os.getpid(), 9)"
    parent = subprocess.run(
        [sys.executable, "-c", code, str(data)], stdout=subprocess.PIPE, text=True, env=clean_environment(), timeout=60
    )
    assert gone(int(parent.stdout))


def test_processes_that_ask_at_once_share_one_service(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; from pathlib import Path; from keen_pipeline.service import embedded\n"
    code += "print(embedded.ensure(Path(sys.argv[1])).base_url)"
    asking = [
        subprocess.Popen([sys.executable, "-c", code, str(data)], stdout=subprocess.PIPE, text=True, env=clean_environment())
        for _ in range(3)
    ]
    answers = [process.communicate(timeout=60)[0] for process in asking]
    pid = json.loads((data / "endpoint.json").read_text())["pid"]
    try:
        assert answers[0].startswith("http://")
        assert set(answers) == {answers[0]}
        found = embedded.find(data)
        assert found is not None
        monkeypatch.setattr(embedded, "_MAX_LOG_BYTES", 100_000)
        with (data / "service.log").open("a") as log:
            log.write(" " * 100_001)
        assert embedded.ensure(data) == found
        assert (data / "service.log").stat().st_size < 100_000
    finally:
        os.kill(pid, signal.SIGTERM)
    assert gone(pid)


def test_why_it_did_not_start_is_told_without_what_it_logged_before(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.mkdir()
    (data / "service.log").write_text('{"level": "info"}\n' * 9 + "keen-pipeline: something of yesterday\n")
    monkeypatch.setenv("KEEN_READ_KEY", "same")
    monkeypatch.setenv("KEEN_WRITE_KEY", "same")
    with pytest.raises(ConfigurationError) as raised:
        embedded.ensure(data)
    assert str(raised.value).startswith(f"the embedded service on {data} did not start: service: KEEN_READ_KEY, KEEN_WRITE_KEY and")
    assert "yesterday" not in str(raised.value)


@pytest.mark.slow
def test_a_child_that_lost_the_race_for_the_folder_is_ended(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winners, losers = [], []

    def slow(data: Path, options: Sequence[str], env: Mapping[str, str], stdin: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
        code = "import sys; from pathlib import Path; from keen_pipeline.service import embedded\n"
        code += "embedded.ensure(Path(sys.argv[1]))"
        winners.append(subprocess.Popen([sys.executable, "-c", code, str(data)], env=clean_environment()))
        code = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(300)"
        return subprocess.Popen([sys.executable, "-c", code], stdin=stdin, stderr=log, env=dict(env), start_new_session=True)

    monkeypatch.setattr(embedded, "_child", slow)
    found = embedded.ensure(data)
    pid = json.loads((data / "endpoint.json").read_text())["pid"]
    try:
        assert embedded.find(data) == found
        assert winners[0].wait(60) == 0
        losers = [int(line) for line in (data / "service.log").read_text().splitlines() if line.isdigit()]
        assert [gone(loser) for loser in losers] == [True]
        assert pid not in losers
    finally:
        os.kill(pid, signal.SIGTERM)
        for loser in losers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(loser, signal.SIGKILL)
    assert gone(pid)


def test_an_idle_service_stops_but_not_before_its_extractions_end(data: Path) -> None:
    with embedded.start(data, env=clean_environment(), options=["--idle-exit", "1", "--extraction-delay", "2"]) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        http.json("POST", f"{http.v2}/purchases/_extract", body={})
        assert gone(service.pid)
    (result,) = (data / "results").glob("*.csv")
    assert result.read_bytes().startswith(b"header:timestamp,body:a\n")


def test_a_stale_endpoint_file_is_no_service(data: Path) -> None:
    data.mkdir()
    (data / "endpoint.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1, "project_id": "x"}')
    assert embedded.find(data) is None
    (data / "endpoint.json").write_text("not json")
    assert embedded.find(data) is None


def test_the_module_is_cheap_to_import() -> None:
    code = "import sys, keen_pipeline.service.embedded\n"
    code += "print([m for m in ('duckdb', 'starlette', 'uvicorn', 'dagster') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("limit", "ago", "open_requests", "waiting", "idle"),
    [(10, 11, 0, 0, True), (10, 9, 0, 0, False), (10, 11, 1, 0, False), (10, 11, 0, 1, False), (None, 11, 0, 0, False)],
)
def test_a_service_is_idle_when_nobody_asks_and_nothing_waits(
    limit: float | None, ago: float, open_requests: int, waiting: int, idle: bool
) -> None:
    records = SimpleNamespace(count_waiting=lambda: waiting)
    config, last = SimpleNamespace(idle_exit_seconds=limit), time.monotonic() - ago
    service = SimpleNamespace(config=config, open_requests=open_requests, last_request=last, records=records)
    server: Any = SimpleNamespace(_service=service)
    assert _Server._is_idle(server) is idle
