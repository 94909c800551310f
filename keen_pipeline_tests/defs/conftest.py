"""A live service with a few days of events, and definitions on it; Dagster runs in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from keen_pipeline import Collection, CsvDestination, ExtractionLedger, KeenResource, build_keen_definitions
from keen_pipeline.client import KeenClient
from keen_pipeline.defs.names import Names
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.scope import Scope, source_of
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline.testing import KeenLanding, live_service
from keen_pipeline_tests.servers.ports import free_port

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
NIGHT = "2026-01-05T01:00:00Z"


def events_of(name: str, day: str, number: int) -> list[dict[str, Any]]:
    return [
        {
            "keen": {"timestamp": f"{day}T{hour % 24:02d}:00:00Z"},
            "amount": hour,
            "text": f'{name}, "{day}"\nline',
            "user": {"id": hour},
        }
        for hour in range(number)
    ]


def counts_of(ledger: SqlLedger) -> dict[str, int]:
    """How many attempts a ledger holds by status."""
    query = sa.select(entries.c.status, sa.func.count()).group_by(entries.c.status)
    with ledger.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


@dataclass
class Place:
    """Definitions, their instance, and what they work on."""

    defs: dg.Definitions
    instance: dg.DagsterInstance
    ledger: SqlLedger
    root: Path
    endpoint: Endpoint

    def run(self, job: str, config: dict[str, Any] | None = None, **kwargs: Any) -> dg.ExecuteInProcessResult:
        return self.defs.resolve_job_def(job).execute_in_process(
            run_config=config, instance=self.instance, raise_on_error=False, **kwargs
        )

    def backfill(
        self, keys: Sequence[str], first: str, last: str, config: dict[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        job = self.defs.resolve_implicit_global_asset_job_def()
        selection = [dg.AssetKey(key.split("/")) for key in keys]
        return job.execute_in_process(
            instance=self.instance, asset_selection=selection, tags=tags, run_config=config, raise_on_error=False
        )

    def tick(self) -> dg.SensorExecutionData:
        sensor = self.defs.resolve_sensor_def("keen_extraction_status")
        resources = {name: self.defs.resources[name] for name in Names("keen").resources} if self.defs.resources else None
        with dg.build_sensor_context(instance=self.instance, resources=resources) as context:
            return sensor.evaluate_tick(context)

    def counts(self) -> dict[str, int]:
        """How many attempts there are by status."""
        return counts_of(self.ledger)

    def materialized(self, key: str) -> list[str]:
        """Partitions by the materializations in the event log, each as often as it was reported."""
        records = self.instance.fetch_materializations(dg.AssetKey(key.split("/")), limit=1000).records
        return sorted(record.partition_key or "" for record in records)

    def metadata(self, key: str, partition: str) -> dict[str, Any]:
        """What the newest materialization of a partition says."""
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(key.split("/")), asset_partitions=[partition])
        record = self.instance.fetch_materializations(wanted, limit=1).records[0]
        assert record.asset_materialization is not None
        return {name: value.value for name, value in record.asset_materialization.metadata.items()}

    def failure(self, result: dg.ExecuteInProcessResult) -> str:
        [event, *_] = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
        failure = event.step_failure_data.user_failure_data
        assert failure is not None
        return failure.description or ""


MakePlace = Callable[..., Place]


@pytest.fixture
def make_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlace]:
    """`make_place(options=[...])`: a service with these options, loaded, and definitions on it (`others`: their arguments)."""
    import contextlib

    monkeypatch.setenv("KEEN_PIPELINE_RETRY_SECONDS", "0.1")
    with contextlib.ExitStack() as stack:

        def make(
            *,
            options: Sequence[str] = (),
            collections: Sequence[Collection] | None = None,
            read_key: str | None = None,
            **others: Any,
        ) -> Place:
            endpoint = stack.enter_context(live_service(options=options))
            with KeenClient(
                endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key
            ) as client:
                client.add_events({"purchases": [e for n, d in enumerate(DAYS) for e in events_of("purchases", d, 3 + n)]})
                client.add_events({"logins": [e for d in DAYS[:2] for e in events_of("logins", d, 2)]})
            url = f"sqlite:///{tmp_path / 'ledger.db'}"
            defs = build_keen_definitions(
                collections
                or [Collection("purchases", "2026-01-01", lookback_days=4), Collection("logins", "2026-01-01", lookback_days=4)],
                keen=KeenResource(
                    base_url=endpoint.base_url,
                    project_id=endpoint.project_id,
                    read_key=read_key or endpoint.read_key,
                    poll_seconds=0.1,
                ),
                ledger=ExtractionLedger(url=url),
                destination=CsvDestination(uri=str(tmp_path / "landing")),
                **others,
            )
            return Place(
                defs,
                stack.enter_context(dg.DagsterInstance.ephemeral()),
                ExtractionLedger(url=url).open(Scope(source_of(endpoint.base_url, endpoint.project_id), str(tmp_path / "landing"))),
                tmp_path / "landing",
                endpoint,
            )

        yield make


def night() -> datetime:
    return datetime(2026, 1, 5, 1, tzinfo=timezone.utc)


@pytest.fixture
def keen_landing(tmp_path: Path) -> KeenLanding:
    return KeenLanding(tmp_path / "keen")


@pytest.fixture
def mail_port(monkeypatch: pytest.MonkeyPatch) -> int:
    port = free_port()
    values = {"HOST": "127.0.0.1", "PORT": str(port), "USER": "reports", "PASSWORD": "s3cret-word", "INSECURE_LOGIN": "true"}
    for name, value in values.items():
        monkeypatch.setenv(f"SMTP_{name}", value)
    return port
