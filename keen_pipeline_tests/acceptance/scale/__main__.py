"""A backfill on the Celery profile: two workers, two workers of which one is killed in the middle, and one worker.

    python -m keen_pipeline_tests.acceptance.scale [--days 90] [--collections 3] [--partitions-per-run 10] [--delay 10] [--json]

On this machine, as processes of their own: PostgreSQL for Dagster and for the ledger, SeaweedFS as the destination, Valkey as the
broker, and for each side the embedded service, a code server, Dagster's daemon and the Celery workers, one run at a time each, as
the deployment profile `celery` configures them. A backfill of all days and collections is cut into bounded runs. On the side with
the kill one worker dies by SIGKILL, all its processes at once, after a third of the partitions have landed and while it has a run;
it does not come back.

Afterwards the audit asks S3, ledger, Dagster's event log and service whether anything was lost or doubled. "Wall" is from the
backfill's request to its end as Dagster tells it; "work" from the first extraction's request to the last landing, without the
daemon's own pauses of 30 s before and after.
Exit status 0 only where everything holds. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionStatus

from keen_pipeline.ledger.database.tables import entries
from keen_pipeline_tests.acceptance.crash.audit import audit, partitions
from keen_pipeline_tests.acceptance.crash.rig import COLLECTIONS, START, add_backfill
from keen_pipeline_tests.acceptance.report import report, verdict
from keen_pipeline_tests.acceptance.scale.rig import Cluster, Ground, ground, merged

LIMIT_SECONDS = 1800.0
_DONE = ("landed", "superseded")


def backfill(cluster: Cluster, *, kill: bool) -> tuple[dict[str, Any], list[str]]:
    """One backfill of everything; the figures, and what is wrong."""
    keys = [(START + timedelta(days=n)).isoformat() for n in range(cluster.days)]
    asked = partitions(cluster.collections, cluster.days)
    begun = time.monotonic()
    backfill_id = add_backfill(cluster.instance, cluster.collections, keys)
    killed: dict[str, Any] = {}
    while (found := cluster.instance.get_backfill(backfill_id)) and found.status not in BULK_ACTION_TERMINAL_STATUSES:
        cluster.check()
        assert time.monotonic() - begun < LIMIT_SECONDS, (
            f"{landed(cluster)} of {len(asked)} landed: {cluster.log('daemon')[-3000:]}"
        )
        if kill and not killed and landed(cluster) >= len(asked) / 3:
            killed = _kill_a_busy_worker(cluster)
        time.sleep(0.25)
    wall = time.monotonic() - begun
    assert found is not None
    figures: dict[str, Any] = {
        "workers": cluster.workers,
        "wall seconds": round(wall, 1),
        "work seconds": _work_seconds(cluster),
        "runs": dict(Counter(run.status.value for run in cluster.instance.get_runs())),
        "runs of the backfill": len(cluster.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill_id}))),
        "runs by worker": _runs_by_worker(cluster),
        "code locations": _locations(cluster),
    }
    wrong = [] if found.status is BulkActionStatus.COMPLETED_SUCCESS else [f"the backfill is {found.status.value}: {found.error}"]
    if kill:
        wrong += [] if killed else ["no worker was killed: nobody was busy after a third"]
        figures |= killed and _takeover(cluster, killed)
    audited, found_wrong = audit(cluster, asked)
    return {**figures, **audited}, [*wrong, *found_wrong, *_landed_twice(cluster), *_secrets(cluster)]


def landed(cluster: Cluster) -> int:
    """Ledger entries that have landed."""
    with cluster.ledger.engine.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).where(entries.c.status.in_(_DONE))).scalar_one())


def _kill_a_busy_worker(cluster: Cluster) -> dict[str, Any]:
    for run in cluster.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        worker = cluster.worker_of(run.run_id)
        if worker is not None:
            at = landed(cluster)
            cluster.kill_host(worker)
            return {"killed": worker, "its run": run.run_id, "landed before the kill": at, "killed at": time.time()}
    return {}


def _takeover(cluster: Cluster, killed: Mapping[str, Any]) -> dict[str, Any]:
    """When the lost run was noticed, and when its successor had started."""
    figures = {name: value for name, value in killed.items() if name != "killed at"}
    lost = cluster.instance.get_run_record_by_id(killed["its run"])
    assert lost is not None
    followers = [r for r in cluster.instance.get_run_records() if r.dagster_run.parent_run_id == killed["its run"]]
    if lost.end_time is not None:
        figures["seconds until its run was failed"] = round(lost.end_time - killed["killed at"], 1)
    if followers and followers[0].start_time is not None:
        figures["seconds until the next run went on"] = round(followers[0].start_time - killed["killed at"], 1)
    return figures


def _work_seconds(cluster: Cluster) -> float:
    with cluster.ledger.engine.connect() as connection:
        first, last = connection.execute(sa.select(sa.func.min(entries.c.posted_at), sa.func.max(entries.c.landed_at))).one()
    return round((last - first).total_seconds(), 1)


def _runs_by_worker(cluster: Cluster) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for run in cluster.instance.get_runs():
        task = run.tags.get("dagster-celery/task_id", "none")
        counted[next((name for name in cluster.worker_names if task in cluster.log(name)), "none")] += 1
    return dict(sorted(counted.items()))


def _locations(cluster: Cluster) -> list[str]:
    """Those of which the daemon has found what ticks."""
    found = cluster.instance.all_instigator_state()
    return sorted({state.origin.repository_origin.code_location_origin.location_name for state in found})


def _landed_twice(cluster: Cluster) -> list[str]:
    """No partition has two landings, not even one that replaced another."""
    with cluster.ledger.engine.connect() as connection:
        rows = connection.execute(sa.select(entries.c.collection, entries.c.partition_key).where(entries.c.status.in_(_DONE))).all()
    return [f"{name}[{key}] was landed {n} times" for (name, key), n in Counter(map(tuple, rows)).items() if n > 1]


def _secrets(cluster: Cluster) -> list[str]:
    """Keys and signatures where no file of a host is: in what passed the broker, in the runs' output, in the databases."""
    words = [secret.encode() for secret in (*cluster.keys.values(), *cluster.secrets)] + [b"signature="]
    places = {**cluster.broker_files(), **cluster.run_output(), **cluster.database_rows()}
    assert places.keys() >= {"table runs", "table event_logs", "table keen_entries"}
    return [f"a secret ({w[:10]!r}...) stands in {place}" for place, data in places.items() for w in words if w in data]


def scale(
    base: Ground, sides: Mapping[str, tuple[int, bool]], *, runs: int | None = None, **size: Any
) -> tuple[dict[str, Any], list[str]]:
    """Each side's figures by its name, and what is wrong.

    `sides`: name to workers and whether one of them is killed. `runs`: at once, by default as many as workers.
    """
    document: dict[str, Any] = {}
    wrong: list[str] = []
    for number, (name, (workers, kill)) in enumerate(sides.items()):
        sys.stderr.write(f"{name}\n")
        over = merged({"concurrency": {"runs": {"max_concurrent_runs": runs or workers}}}, size.get("over", {}))
        with Cluster(base, number, workers=workers, **{**size, "over": over}) as cluster:
            document[name], found = backfill(cluster, kill=kill)
        wrong += [f"{name}: {line}" for line in found]
    return document, wrong


SIDES = {"two workers": (2, False), "two workers, one killed": (2, True), "one worker": (1, False)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures and what is wrong; 0 where nothing is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--collections", type=int, choices=range(1, len(COLLECTIONS) + 1), default=len(COLLECTIONS))
    parser.add_argument("--partitions-per-run", type=int, default=10, help="days of all collections that one run lands")
    parser.add_argument("--delay", type=float, default=10.0, help="seconds that the service lets each extraction rest")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    given = parser.parse_args(arguments)
    size = {"days": given.days, "partitions_per_run": given.partitions_per_run, "delay": given.delay}
    with TemporaryDirectory(prefix="keen-scale-") as folder, ground(Path(folder)) as base:
        document, wrong = scale(base, SIDES, names=COLLECTIONS[: given.collections], **size)
    two, one = document["two workers"], document["one worker"]
    ratios = {f"{name}, one worker / two": round(one[name] / two[name], 2) for name in ("wall seconds", "work seconds")}
    if given.json:
        return report({**size, "collections": given.collections, "sides": document, "ratios": ratios}, wrong, as_json=True)
    for side, figures in document.items():
        print(f"\n{side}")
        for what, value in figures.items():
            print(f"  {what:<50} {value}")
    print()
    for what, value in ratios.items():
        print(f"{what:<52} {value}")
    return verdict(wrong)


if __name__ == "__main__":
    sys.exit(main())
