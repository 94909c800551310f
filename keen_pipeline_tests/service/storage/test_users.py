"""The users of a service: processes that share one, and with the last of which it ends."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service import embedded
from keen_pipeline.service.endpoint import is_held
from keen_pipeline_tests.service.environment import clean_environment, gone


def test_commands_at_once_share_a_service_that_ends_with_the_last_of_them_however_they_end(data: Path) -> None:
    code = "import sys; from pathlib import Path; from keen_pipeline.service import embedded\n"
    code += "with embedded.shared(Path(sys.argv[1])) as found: print(found.base_url, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(data)]
    users = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment())
        for _ in range(3)
    ]
    try:
        urls = [user.stdout.readline() for user in users if user.stdout is not None]
        assert urls[0].startswith("http://")
        assert set(urls) == {urls[0]}
        pid = json.loads((data / "endpoint.json").read_text())["pid"]
        users[0].communicate(timeout=60)
        users[1].kill()
        users[1].wait(60)
        time.sleep(0.5)  # it looks ten times a second
        found = embedded.find(data)
        assert found is not None
        assert found.base_url == urls[0].strip()
        with embedded.shared(data) as mine:
            users[2].communicate(timeout=60)
            assert (users[0].returncode, users[2].returncode, mine) == (0, 0, found)
            time.sleep(0.5)  # whichever of the three has started it
            assert embedded.find(data) == found
        assert not is_held(data)  # its last user, who did not start it, has waited for its end
        assert gone(pid)
        with embedded.shared(data) as next_one:
            assert embedded.find(data) == next_one
        assert embedded.find(data) is None
    finally:
        for user in users:
            user.kill()


def test_a_process_of_dagster_s_keeps_the_service_of_a_command_that_ends_before_it(data: Path) -> None:
    code = "import sys; from pathlib import Path; from keen_pipeline.service import embedded\n"
    code += "print(embedded.ensure(Path(sys.argv[1])).base_url, flush=True); sys.stdin.read()"
    with contextlib.ExitStack() as command:
        found = command.enter_context(embedded.shared(data))
        assert embedded.ensure(data) == found  # a command's own client, which is no second user
        run = subprocess.Popen(
            [sys.executable, "-c", code, str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        try:
            assert run.stdout is not None
            assert run.stdout.readline().strip() == found.base_url
            command.close()
            time.sleep(0.5)  # it looks ten times a second
            assert embedded.find(data) == found
        finally:
            pid = json.loads((data / "endpoint.json").read_text())["pid"]
            run.communicate(timeout=60)
    assert gone(pid)


def test_a_service_that_somebody_runs_outlives_the_commands_that_use_it(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        with embedded.shared(data) as found:
            assert found == service.endpoint
        time.sleep(0.5)
        assert embedded.find(data) == service.endpoint


def test_a_folder_of_somebody_else_gets_no_users_either(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigurationError, match="holds other things"), embedded.shared(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
