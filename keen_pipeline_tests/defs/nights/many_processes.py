"""One of several processes on one ledger: `sensor` ticks Dagster's sensor, `land` lands, `ask` lists as fast as it may, `backfill`
is one run over a range of all collections.

    python -m keen_pipeline_tests.defs.nights.many_processes sensor|land|ask|backfill FOLDER AHEAD_SECONDS [FIRST LAST]

They share FOLDER: `dispatched/` holds what the sensors asked to land, `landed/` one file for each landing, `stop` ends them all,
`dagster/` is the instance of the backfills.
Each is on a host whose clock is ahead by so many seconds. Configuration comes from the environment, as anywhere.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from keen_pipeline.collections_file import read_collections_file
from keen_pipeline.errors import RetryableError
from keen_pipeline.extraction import Status
from keen_pipeline.pipeline import Landed, Pipeline, land
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_client, open_ledger, open_pipeline, scope_of
from keen_pipeline_tests.skewed import set_this_hosts_clock

_REST_SECONDS = 0.2


def sensor(folder: Path) -> None:
    """Tick after tick of `keen_extraction_status`; each landing run it asks for becomes a file that one process takes."""
    import dagster as dg

    from keen_pipeline import build_keen_definitions

    path = Settings.from_environment().collections_file
    assert path is not None
    defs = build_keen_definitions(read_collections_file(path))
    definition = defs.resolve_sensor_def("keen_extraction_status")
    assert defs.resources is not None
    resources = {name: defs.resources[name] for name in ("keen", "keen_ledger", "keen_destination")}
    with dg.DagsterInstance.ephemeral() as instance:
        while not (folder / "stop").exists():
            with dg.build_sensor_context(instance=instance, resources=resources) as context:
                for request in definition.evaluate_tick(context).run_requests or []:
                    staged = folder / f"{uuid.uuid4().hex}.new"
                    staged.write_text(json.dumps(request.run_config["ops"]["materialize_csv"]["config"]))
                    staged.rename(folder / "dispatched" / f"{staged.stem}.json")
            time.sleep(_REST_SECONDS)


def landing(folder: Path) -> None:
    """Take what a sensor dispatched, or whatever is finished: all landing processes reach for the same."""
    pipeline = open_pipeline(Settings.from_environment())
    while not (folder / "stop").exists():
        _land(pipeline, _dispatched(folder), folder)
        _land(pipeline, [e.entry_id for e in pipeline.ledger.open_entries()], folder)
        time.sleep(_REST_SECONDS)


def _dispatched(folder: Path) -> list[int]:
    for path in (folder / "dispatched").glob("*.json"):
        mine = path.with_suffix(".taken")
        try:
            path.rename(mine)
        except FileNotFoundError:
            continue  # another process was quicker
        entry_ids: list[int] = json.loads(mine.read_text())["entry_ids"]
        return entry_ids
    return []


def _land(pipeline: Pipeline, entry_ids: list[int], folder: Path) -> None:
    complete = [e.entry_id for e in pipeline.ledger.entries(entry_ids) if e.status is Status.COMPLETE]
    if not complete:
        return
    with pipeline.working("landing") as worker:
        for outcome in land(pipeline, complete, worker):
            if isinstance(outcome, Landed):
                # A second landing of the same entry finds the file and ends this process.
                (folder / "landed" / str(outcome.entry.entry_id)).touch(exist_ok=False)
                pipeline.ledger.reported([outcome.entry.entry_id])


def ask(folder: Path) -> None:
    """List calls without a pause; the shared budget alone holds them back."""
    settings = Settings.from_environment()
    assert settings.collections_file is not None
    [name, *_] = [c.name for c in read_collections_file(settings.collections_file)]
    with open_client(settings, open_ledger(settings.ledger_url, scope_of(settings)), total_timeout=8.0) as client:
        while not (folder / "stop").exists():
            try:
                client.list_extractions(name)
            except RetryableError:  # the budget is used up for longer than a call may take
                time.sleep(0.01)


def backfill(folder: Path, first: str, last: str) -> None:
    """As a run of Dagster's own lands it; ends with status 1 where it fails."""
    import dagster as dg

    from keen_pipeline import build_keen_definitions

    path = Settings.from_environment().collections_file
    assert path is not None
    collections = read_collections_file(path)
    job = build_keen_definitions(collections).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
        done = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["keen", c.name]) for c in collections],
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
            raise_on_error=False,
        )
    sys.exit(0 if done.success else 1)


ROLES: dict[str, Callable[..., None]] = {"sensor": sensor, "land": landing, "ask": ask, "backfill": backfill}

if __name__ == "__main__":
    set_this_hosts_clock(float(sys.argv[3]))
    ROLES[sys.argv[1]](Path(sys.argv[2]), *sys.argv[4:])
