"""The Dockerfiles: hadolint has nothing to say, nobody is root, and their install steps give a program that starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3

from keen_pipeline import __version__
from keen_pipeline.cli.docs import PROFILES
from keen_pipeline_tests.acceptance.processes import await_text
from keen_pipeline_tests.servers.ports import free_port

FOLDER = PROFILES / "images"
DOCKERFILES = ["Dockerfile", "service.Dockerfile"]


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, its arguments) in their order, comments gone, continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (FOLDER / name).read_text())
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    hadolint = str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run([hadolint, "--no-color", str(FOLDER / name)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_have_said_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install dagster\n")
    hadolint = str(Path(sys.executable).parent / "hadolint")
    assert subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True).returncode != 0


@pytest.mark.parametrize("name", DOCKERFILES)
def test_nobody_is_root_nothing_is_secret_and_the_base_is_pinned(name: str) -> None:
    steps = instructions(name)
    [base] = [arguments for instruction, arguments in steps if instruction == "FROM"]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
    users = [arguments for instruction, arguments in steps if instruction == "USER"]
    assert users == ["10001:10001"]
    assert [i for i, _ in steps].index("USER") < [i for i, _ in steps].index("CMD")
    assert not [arguments for i, arguments in steps if i in ("ARG", "ENV") and re.search(r"KEY|PASSWORD|SECRET|TOKEN", arguments)]
    assert not [i for i, _ in steps if i in ("ADD", "COPY")]  # what is built from is mounted, and only wheels
    assert dict(a.split("=") for i, a in steps if i == "ARG")["KEEN_PIPELINE_VERSION"] == __version__
    ignored = (FOLDER / f"{name}.dockerignore").read_text().splitlines()
    assert [line for line in ignored if not line.startswith("#")] == ["*", "!wheels"]


def test_only_the_service_has_a_health_check_which_its_process_answers() -> None:
    checks = {name: [a for i, a in instructions(name) if i == "HEALTHCHECK"] for name in DOCKERFILES}
    assert checks["Dockerfile"] == []  # its commands are too different; Kubernetes asks each its own question
    [check] = checks["service.Dockerfile"]
    assert "/healthz" in check


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), root], check=True)
    return folder


def installed(name: str, wheels: Path, folder: Path) -> Path:
    """The image's pip step in a clean environment; answers its programs' folder."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    programs = folder / "env" / "bin"
    arguments = dict(a.split("=") for i, a in instructions(name) if i == "ARG")
    [step] = [a for i, a in instructions(name) if i == "RUN" and "pip install" in a]
    command = re.sub(r"^--mount=\S+\s+", "", step).replace("/wheels", str(wheels))
    done = subprocess.run(
        ["bash", "-euc", command],
        env={**bare(programs), **arguments},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return programs


def bare(programs: Path) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if k in ("HOME", "LANG") or k.startswith(("PIP_", "SSL_", "HTTP", "http", "no_proxy"))
    }
    return {**kept, "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin"}


def command_of(name: str, **replaced: str) -> list[str]:
    """The words of CMD, with addresses and folders that a test can have."""
    [words] = [a for i, a in instructions(name) if i == "CMD"]
    found = [replaced.get(word.strip('" '), word.strip('" ')) for word in words.strip("[]").split(",")]
    assert set(replaced.values()) <= set(found)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_services_image_serves_and_its_health_check_is_right(wheels: Path, tmp_path: Path) -> None:
    programs, port = installed("service.Dockerfile", wheels, tmp_path), free_port()
    [check] = [a for i, a in instructions("service.Dockerfile") if i == "HEALTHCHECK"]
    python, _, code = [word.strip('" ') for word in check.split("CMD ", 1)[1].strip("[]").split(", ", 2)]
    asked = [python, "-c", code.replace("8765", str(port))]
    assert subprocess.run(asked, env=bare(programs), capture_output=True).returncode != 0
    words = command_of("service.Dockerfile", **{"0.0.0.0": "127.0.0.1", "8765": str(port), "/var/lib/keen": str(tmp_path / "keen")})
    log = tmp_path / "log"
    words[0] = str(programs / words[0])
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=bare(programs), cwd=tmp_path, stdout=out, stderr=out)
    try:
        await_text(log, f"listening on http://127.0.0.1:{port}", process, 60)
        assert urllib3.request("GET", f"http://127.0.0.1:{port}/healthz").status == 200
        assert subprocess.run(asked, env=bare(programs), capture_output=True).returncode == 0
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_code_locations_image_has_what_every_role_of_it_needs(wheels: Path, tmp_path: Path) -> None:
    programs, port = installed("Dockerfile", wheels, tmp_path), free_port()
    environment = {**bare(programs), "DAGSTER_HOME": str(tmp_path), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    roles = "dagster_postgres, dagster_aws.s3, dagster_k8s, dagster_celery.app, keen_pipeline.defs.celery_launcher, pyarrow, boto3"
    imported = subprocess.run([programs / "python", "-c", f"import {roles}"], env=environment, capture_output=True, text=True)
    assert imported.returncode == 0, imported.stderr
    for name in ("dagster-webserver", "dagster-daemon", "celery", "keen-pipeline"):
        assert (programs / name).exists()
    # Profiles are found from an installed wheel.
    copied = subprocess.run([programs / "keen-pipeline", "deployment", "celery", "--to", "here"], env=environment, cwd=tmp_path)
    assert copied.returncode == 0
    assert (tmp_path / "here" / "dagster.yaml").read_text() == (PROFILES / "celery" / "dagster.yaml").read_text()
    words = command_of("Dockerfile", **{"0.0.0.0": "127.0.0.1", "3030": str(port)})
    log = tmp_path / "log"
    words[0] = str(programs / words[0])
    with log.open("wb") as out:
        process = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=out, stderr=out)
    try:
        await_text(log, "Started Dagster code proxy server for module keen_pipeline.definitions", process, 90)
        asked = [programs / "dagster", "api", "grpc-health-check", "-p", str(port)]
        deadline = time.monotonic() + 30
        while subprocess.run(asked, env=environment, capture_output=True).returncode:
            assert time.monotonic() < deadline
    finally:
        process.kill()  # Dagster's proxy may hang on SIGTERM beside its loading; the server behind it ends without its heartbeat
        process.wait(60)
