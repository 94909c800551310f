"""A guest in somebody's project: nothing of theirs is taken over, two projects lie side by side, and nothing starts by itself."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import dagster as dg
import duckdb
import pytest

from keen_pipeline.defs.names import Names
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import live_service

LOCATION = '''
"""Somebody's code location: an executor, a default I/O manager, an automation sensor and resources of their own."""

import os

import dagster as dg
import pandas as pd
from dagster.components.core.component_tree import ComponentTree
from dagster_duckdb_pandas import DuckDBPandasIOManager

from keen_pipeline import (
    Collection, CsvDestination, ExtractionLedger, KeenExtractionComponent, KeenResource, build_keen_definitions,
)

HOME = os.environ["OUR_HOME"]
COLLECTIONS = [Collection(name=name, start_date="2026-01-01", lookback_days=4) for name in ("purchases", "logins")]


class Pages(dg.ConfigurableResource):
    pages: int = 7


@dg.asset(automation_condition=dg.AutomationCondition.eager())
def figures() -> pd.DataFrame:
    return pd.DataFrame({"n": [1, 2, 3]})


@dg.asset(deps=[figures], automation_condition=dg.AutomationCondition.eager())
def pages_of(ledger: Pages, destination: Pages) -> pd.DataFrame:
    return pd.DataFrame({"pages": [ledger.pages + destination.pages]})


OURS = dg.define_asset_job("ours", selection=[figures, pages_of])


def of(name):
    return build_keen_definitions(
        COLLECTIONS,
        name=name,
        keen=KeenResource(
            base_url=dg.EnvVar(f"{name.upper()}_URL"),
            project_id=dg.EnvVar(f"{name.upper()}_PROJECT"),
            read_key=dg.EnvVar(f"{name.upper()}_KEY"),
            poll_seconds=0.1,
        ),
        ledger=ExtractionLedger(url=f"sqlite:///{HOME}/ledger.db"),
        destination=CsvDestination(uri=f"{HOME}/{os.environ.get('OUR_PLACE', name)}"),
    )


component = KeenExtractionComponent(collections=COLLECTIONS, name="web")

defs = dg.Definitions.merge(
    of("eu"),
    of("us"),
    component.build_defs(ComponentTree.for_test().load_context),
    dg.Definitions(
        assets=[figures, pages_of],
        jobs=[OURS],
        sensors=[dg.AutomationConditionSensorDefinition("everything", target="*", default_status=dg.DefaultSensorStatus.RUNNING)],
        executor=dg.multiprocess_executor,
        resources={
            "io_manager": DuckDBPandasIOManager(database=f"{HOME}/warehouse.duckdb"),
            "ledger": Pages(),
            "destination": Pages(pages=1),
        },
    ),
)
'''
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
AS_OF = "2026-01-05T01:00:00Z"


def write(endpoint: Endpoint, project: str) -> None:
    events = {
        name: [
            {"keen": {"timestamp": f"{day}T0{hour}:00:00Z"}, "whose": project, "hour": hour} for day in DAYS for hour in range(3)
        ]
        for name in ("purchases", "logins")
    }
    request = urllib.request.Request(
        f"{endpoint.base_url}/3.0/projects/{endpoint.project_id}/events",
        data=json.dumps(events).encode(),
        headers={"Authorization": endpoint.write_key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def endpoints() -> Iterator[dict[str, Endpoint]]:
    with live_service() as eu, live_service() as us:
        write(eu, "eu")
        write(us, "us")
        yield {"eu": eu, "us": us}


@dataclass
class Guest:
    module: ModuleType
    instance: dg.DagsterInstance
    home: Path
    file: Path

    @property
    def defs(self) -> dg.Definitions:
        defs: dg.Definitions = self.module.defs
        return defs

    def run(self, job: str, config: dict[str, object] | None = None) -> dg.ExecuteInProcessResult:
        return self.defs.resolve_job_def(job).execute_in_process(run_config=config, instance=self.instance, raise_on_error=False)

    def submit(self, name: str) -> dg.ExecuteInProcessResult:
        (op,) = self.defs.resolve_job_def(Names(name).submit_job).graph.node_defs
        collections = [{"name": c.name, "start_date": "2026-01-01", "lookback_days": 4} for c in self.module.COLLECTIONS]
        return self.run(Names(name).submit_job, {"ops": {op.name: {"config": {"collections": collections, "as_of": AS_OF}}}})

    def land(self, name: str) -> int:
        """Tick and land until nothing is open; answers how many runs that took."""
        names, runs = Names(name), 0
        sensor = self.defs.resolve_sensor_def(names.status_sensor)
        resources = {key: (self.defs.resources or {})[key] for key in names.resources}
        for _ in range(200):
            with dg.build_sensor_context(instance=self.instance, resources=resources) as context:
                data = sensor.evaluate_tick(context)
            for request in data.run_requests or []:
                assert self.run(names.materialize_job, dict(request.run_config)).success
                runs += 1
            if "no extraction is open" in (data.skip_message or ""):
                return runs
        raise AssertionError("it never ends")


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoints: dict[str, Endpoint]) -> Iterator[Guest]:
    monkeypatch.setenv("OUR_HOME", str(tmp_path))
    for name, endpoint in endpoints.items():
        monkeypatch.setenv(f"{name.upper()}_URL", endpoint.base_url)
        monkeypatch.setenv(f"{name.upper()}_PROJECT", endpoint.project_id)
        monkeypatch.setenv(f"{name.upper()}_KEY", endpoint.read_key)
    file = tmp_path / "somebodys_location.py"
    file.write_text(LOCATION)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Guest(_load(file), instance, tmp_path, file)


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_loads_beside_everything_and_nothing_of_ours_is_running(guest: Guest) -> None:
    dg.Definitions.validate_loadable(guest.defs)
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-f", str(guest.file)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    repository = guest.defs.get_repository_def()
    running = [s.name for s in repository.sensor_defs if s.default_status is dg.DefaultSensorStatus.RUNNING]
    assert running == ["everything"]
    assert [s.name for s in repository.schedule_defs if s.default_status is dg.DefaultScheduleStatus.RUNNING] == []
    assert {s.name for s in repository.sensor_defs} == {f"{n}_extraction_status" for n in ("eu", "us", "web")} | {"everything"}
    keys = {spec.key.to_user_string() for spec in guest.defs.resolve_all_asset_specs()}
    assert keys == {f"{n}/{c}" for n in ("eu", "us", "web") for c in ("purchases", "logins")} | {"figures", "pages_of"}


def test_the_users_own_job_keeps_its_executor_and_its_io_manager(guest: Guest) -> None:
    assert guest.defs.resolve_job_def("ours").executor_def is dg.multiprocess_executor
    assert guest.run("ours").success
    with duckdb.connect(str(guest.home / "warehouse.duckdb")) as warehouse:
        assert warehouse.sql("select * from public.figures order by n").fetchall() == [(1,), (2,), (3,)]
        assert warehouse.sql("select pages from public.pages_of").fetchall() == [(8,)]


def test_both_nights_land_each_projects_bytes_in_its_own_folder(guest: Guest) -> None:
    for name in ("eu", "us"):
        assert guest.submit(name).success
    assert {name: guest.land(name) > 0 for name in ("eu", "us")} == {"eu": True, "us": True}
    for name in ("eu", "us"):
        files = sorted(p.relative_to(guest.home / name).as_posix() for p in (guest.home / name).glob("[a-z]*/*.csv"))
        assert files == sorted(f"{c}/{day}.csv" for c in ("purchases", "logins") for day in DAYS)
        for file in files:
            assert [row["body:whose"] for row in _rows(guest.home / name / file)] == [name] * 3
        for collection in ("purchases", "logins"):
            records = guest.instance.fetch_materializations(dg.AssetKey([name, collection]), limit=50).records
            assert sorted(str(r.partition_key) for r in records) == list(DAYS)
    _each_entry_is_in_its_own_scope(guest)
    assert {run.job_name for run in guest.instance.get_runs()} == {
        f"{name}_{job}" for name in ("eu", "us") for job in ("submit_extractions", "materialize_csvs")
    }
    # Their automation sensor over everything wakes their assets alone: ours have no condition.
    woken = dg.evaluate_automation_conditions(guest.defs, guest.instance)
    ours = [spec.key for spec in guest.defs.resolve_all_asset_specs() if len(spec.key.path) == 2]
    assert len(ours) == 6
    assert [woken.get_num_requested(key) for key in ours] == [0] * 6


def _each_entry_is_in_its_own_scope(guest: Guest) -> None:
    from keen_pipeline.wiring import open_database, open_ledger

    url = f"sqlite:///{guest.home}/ledger.db"
    summaries = [s for s in open_ledger(url, _scope(guest, "eu")).scopes() if s.scope.source]  # but for entries of before
    assert {(s.scope.name, s.scope.destination, s.landed, s.open) for s in summaries} == {
        (name, str(guest.home / name), 8, 0) for name in ("eu", "us")
    }
    assert len({s.scope.source for s in summaries}) == 2
    for name in ("eu", "us"):
        entries = open_ledger(url, _scope(guest, name)).landed_entries("purchases")
        assert {e.landing.uri for e in entries if e.landing} == {f"{guest.home}/{name}/purchases/{day}.csv" for day in DAYS}
    open_database(url).dispose()


def _scope(guest: Guest, name: str):  # type: ignore[no-untyped-def]
    import os

    from keen_pipeline.scope import Scope, source_of

    upper = name.upper()
    source = source_of(os.environ[f"{upper}_URL"], os.environ[f"{upper}_PROJECT"])
    return Scope(source, str(guest.home / name), name)


def test_two_of_the_same_destination_are_refused_in_one_line(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_PLACE", "shared")
    guest.module = _load(guest.file)
    assert guest.submit("eu").success
    refused = guest.submit("us")
    assert not refused.success
    [failed] = [e for e in refused.all_events if e.event_type_value == "STEP_FAILURE"]
    said = failed.step_failure_data.user_failure_data
    assert said is not None
    [line] = [line for line in (said.description or "").splitlines() if "land the same files" in line and "purchases" in line]
    assert "'eu' and 'us' land the same files at " in line
    assert "give one of them another destination, or its old name if it was renamed" in line
    assert guest.land("eu") > 0
    assert {row["body:whose"] for row in _rows(guest.home / "shared" / "purchases" / f"{DAYS[0]}.csv")} == {"eu"}


def _rows(file: Path) -> list[dict[str, str]]:
    import csv

    with file.open(newline="") as text:
        return list(csv.DictReader(text))
