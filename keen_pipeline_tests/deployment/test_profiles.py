"""Every profile is whole, has its page, and is what Dagster reads on a real PostgreSQL."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster_aws.s3 import S3ComputeLogManager
from dagster_postgres import PostgresEventLogStorage

import keen_pipeline.settings
from keen_pipeline.cli.docs import PROFILES, profiles
from keen_pipeline.cli.local.processes import make_dagster_home
from keen_pipeline.defs.celery_launcher import WatchedCeleryRunLauncher
from keen_pipeline_tests.acceptance.processes import Shell
from keen_pipeline_tests.acceptance.scale.rig import merged

KNOWN = {"one_machine", "postgres_s3", "celery", "kubernetes", "images"}


@pytest.fixture
def cluster_environment(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> sa.URL:
    """Everything that the pages of postgres_s3 and celery tell to set, with a database of the test's own."""
    url = sa.make_url(postgres_url)
    for name, value in {
        "DAGSTER_POSTGRES_HOST": "",
        "DAGSTER_POSTGRES_DB": str(url.database),
        "DAGSTER_POSTGRES_USER": str(url.username),
        "DAGSTER_POSTGRES_PASSWORD": "any",
        "DAGSTER_LOGS_BUCKET": "logs",
        "DAGSTER_CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        "DAGSTER_CELERY_BACKEND_URL": "redis://127.0.0.1:1/1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return url


def read(name: str, file: str = "README.md") -> str:
    return (PROFILES / name / file).read_text()


def test_each_profile_has_its_page_and_the_index_leads_to_it() -> None:
    assert set(profiles()) == KNOWN
    index = (PROFILES / "README.md").read_text()
    for name in KNOWN:
        assert f"({name}/README.md)" in index
    for page in PROFILES.rglob("README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page}: {target}"


def test_the_variables_of_the_pages_are_read_by_somebody() -> None:
    assert keen_pipeline.settings.__file__ is not None
    ours = set(re.findall(r'"((?:KEEN|SMTP)_\w+)"', Path(keen_pipeline.settings.__file__).read_text()))
    files = [path.read_text() for path in PROFILES.rglob("*") if path.suffix in (".yaml", ".py")]
    for page in PROFILES.rglob("README.md"):
        for name in set(re.findall(r"\b(?:KEEN|DAGSTER)_[A-Z_]+\b", page.read_text())):
            known = name in ours or name == "DAGSTER_HOME" or any(name in text for text in files) or name == "KEEN_PIPELINE_VERSION"
            assert known, f"{page}: {name}"


def test_no_password_stands_in_a_profile() -> None:
    secret = re.compile(r"(?im)^\s*(?:\w*password|\w*secret|\w*secretname|\w*_key|broker|backend)\s*:\s*(.+)$")
    for path in PROFILES.rglob("*.yaml"):
        for match in secret.finditer(path.read_text()):
            assert match[1].startswith("{env: ") or match[1] in ("keen-postgres", "false"), f"{path}: {match[0]}"


def test_one_machine_is_what_the_commands_write(tmp_path: Path) -> None:
    home = make_dagster_home(tmp_path / "home")
    assert (home / "dagster.yaml").read_text() == read("one_machine", "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.run_monitoring_enabled
        assert instance.run_retries_max_retries == 1
        assert instance.get_runs() == []


@pytest.mark.parametrize("name", ["postgres_s3", "celery"])
def test_dagster_keeps_its_history_in_postgresql_as_the_profile_says(
    name: str, cluster_environment: sa.URL, tmp_path: Path
) -> None:
    document = yaml.safe_load(read(name, "dagster.yaml"))
    # The test's server listens on a socket, which a parameter of the connection names.
    socket_folder = {"storage": {"postgres": {"postgres_db": {"params": dict(cluster_environment.query)}}}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(merged(document, socket_folder)))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(["keen", "purchases"], partition="2026-01-01"))
        assert isinstance(instance.event_log_storage, PostgresEventLogStorage)
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
        assert instance.run_monitoring_enabled
        assert instance.run_retries_max_retries == 3
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert isinstance(instance.run_launcher, WatchedCeleryRunLauncher) is (name == "celery")
    engine = sa.create_engine(cluster_environment)
    with engine.connect() as connection:
        keys = connection.execute(sa.text("SELECT asset_key FROM asset_keys")).scalars().all()
    engine.dispose()
    assert keys == ['["keen", "purchases"]']


def test_the_workers_read_the_environment_and_leave_no_address_in_a_file(
    cluster_environment: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PROFILES / "celery"))
    from dagster_celery.make_app import make_app

    conf = make_app().conf
    assert conf.broker_url == "redis://127.0.0.1:1/0"
    assert conf.result_backend == "redis://127.0.0.1:1/1"
    assert conf.worker_prefetch_multiplier == 1
    # Else a run that is longer than its state in the backend would count as dead.
    assert conf.result_expires > yaml.safe_load(read("celery", "dagster.yaml"))["run_monitoring"]["max_runtime_seconds"]


def test_a_run_of_our_code_location_needs_no_child_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "collections.yaml").write_text('collections: [{name: purchases, start_date: "2026-01-01"}]')
    monkeypatch.setenv("KEEN_PIPELINE_COLLECTIONS", str(tmp_path / "collections.yaml"))
    found = runpy.run_module("keen_pipeline.definitions")["defs"]
    job = found.get_repository_def().get_implicit_asset_job_names()[0]
    assert found.resolve_job_def(job).executor_def is dg.in_process_executor


def test_the_command_lists_shows_and_copies_them(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    listed = shell.run("deployment").stdout
    assert all(name in listed for name in KNOWN)
    assert shell.run("deployment", "celery").stdout == read("celery")
    copied = shell.run("deployment", "celery", "--to", "here")
    assert copied.returncode == 0, copied.stderr
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "README.md",
        "dagster.yaml",
        "workspace.yaml",
        "dagster_celery_config.py",
    }
    assert (tmp_path / "here" / "dagster.yaml").read_text() == read("celery", "dagster.yaml")
    again = shell.run("deployment", "postgres_s3", "--to", "here")
    assert again.returncode == 1
    assert "already exists; nothing was copied" in again.stderr
    assert (tmp_path / "here" / "dagster.yaml").read_text() == read("celery", "dagster.yaml")
    assert shell.run("deployment", "nomad").returncode == 2
    assert shell.run("deployment", "--to", "here").returncode == 2
