"""What must hold after crashes and faults, asked of the parts: files, ledger, event log, service, and every byte left."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
import sqlalchemy as sa
import urllib3
from dagster._core.storage.tags import BACKFILL_ID_TAG

from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Collection, Granularity
from keen_pipeline.defs.reports.metadata import LANDING_KEY
from keen_pipeline.extraction import Status
from keen_pipeline.landing.layout import manifest_path
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.timeframe import format_instant

BACKFILL = "backfill"
_DIRECT_SECONDS = 300.0
_PAGE = 1000

Partition = tuple[str, str]


class Audited(Protocol):
    """What is asked: a pipeline with its parts.

    `folder`: everything that it writes and that is no destination; the service's own `service_data` may lie in it. `keys`: by name;
    none of them, nor `secrets`, may stand anywhere in `folder`.
    """

    folder: Path
    service_data: Path
    collections: list[Collection]
    ledger: SqlLedger
    keys: dict[str, str]
    secrets: tuple[str, ...]
    port: int
    project: str

    @property
    def instance(self) -> dg.DagsterInstance: ...

    def client(self) -> KeenClient: ...

    def files(self) -> dict[str, bytes]:
        """Everything at the destination, by its path below it."""


def partitions(collections: Sequence[Collection], days: int) -> list[Partition]:
    """(collection, partition key) of the first days of all collections, which are daily."""
    return [(c.name, (c.start + timedelta(days=n)).isoformat()) for c in collections for n in range(days)]


def audit(rig: Audited, asked: Sequence[Partition]) -> tuple[dict[str, Any], list[str]]:
    """Figures, and what is wrong in words; no words where everything holds."""
    figures: dict[str, Any] = {}
    wrong: list[str] = []
    with rig.ledger.engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(sa.select(entries).order_by(entries.c.id))]
    _states(rows, asked, figures, wrong)
    _orphans(rig, rows, figures, wrong)
    _reported_once(rig, rows, figures, wrong)
    _files(rig, asked, figures, wrong)
    _secrets(rig, figures, wrong)
    return figures, wrong


def _states(rows: list[dict[str, Any]], asked: Sequence[Partition], figures: dict[str, Any], wrong: list[str]) -> None:
    figures["partitions asked"] = len(asked)
    figures["ledger entries"] = dict(Counter(row["status"] for row in rows))
    landed = Counter((row["collection"], row["partition_key"]) for row in rows if row["status"] == Status.LANDED.value)
    figures["partitions landed"] = len(landed)
    wrong += [f"{name}[{day}] is not landed" for name, day in asked if not landed[name, day]]
    wrong += [f"{name}[{day}] has {n} valid landings" for (name, day), n in landed.items() if n > 1]
    wrong += [f"{name}[{day}] was never asked" for name, day in landed if (name, day) not in set(asked)]
    still_open = {s.value for s in Status if not s.is_terminal}
    wrong += [f"entry {row['id']} is still {row['status']}" for row in rows if row["status"] in still_open]
    wrong += [f"entry {row['id']} is {row['status']}: {row['error']}" for row in rows if row["status"] == Status.ABANDONED.value]


def _orphans(rig: Audited, rows: list[dict[str, Any]], figures: dict[str, Any], wrong: list[str]) -> None:
    """Extractions at the service that no row knows, against what the ledger counted."""
    known = {row["extraction_id"] for row in rows}
    with rig.client() as client:
        there = {found for collection in rig.collections for found in client.list_extractions(collection.name)}
    unknown = there - known
    counted = rig.ledger.orphans()
    figures["extractions at the service"] = len(there)
    figures["orphans at the service"] = len(unknown)
    figures["orphans counted"] = counted
    # More may be counted than there are: a POST whose process died before it left is counted, as nobody can tell.
    if len(unknown) > counted:
        wrong.append(f"{len(unknown)} orphans at the service, only {counted} counted")


def _reported_once(rig: Audited, rows: list[dict[str, Any]], figures: dict[str, Any], wrong: list[str]) -> None:
    """One event for each landing.

    One more is right for a backfill that found a partition landed by others (the sensor took it over from the backfill's dead
    run, whose retry then found it): Dagster counts a partition of a backfill only by events of the backfill's own runs.
    """
    landings = {row["token"]: row for row in rows if row["status"] in (Status.LANDED.value, Status.SUPERSEDED.value)}
    told: dict[str, list[str]] = defaultdict(list)
    for collection in rig.collections:
        for token, run_id in _materialized(rig.instance, collection.name):
            told[token].append(_teller(rig.instance, run_id))
    figures["landings"] = len(landings)
    figures["landings materialized"] = len(told)
    figures["told once more to a backfill that found them landed"] = sum(len(tellers) - 1 for tellers in told.values())
    wrong += [f"entry {row['id']} was landed and not marked as reported" for row in landings.values() if not row["reported_at"]]
    for token, row in landings.items():
        tellers = Counter(told[token])
        backfills = sum(teller.startswith(BACKFILL) for teller in tellers)
        if not tellers or max(tellers.values()) > 1 or len(tellers) - backfills > 1:
            wrong.append(f"{row['collection']}[{row['partition_key']}], entry {row['id']}: materialized by {dict(tellers)}")
    wrong += [f"landing {token} was materialized and never landed" for token in told if token not in landings]


def _teller(instance: dg.DagsterInstance, run_id: str) -> str:
    """Who reported: a backfill by all its runs, else anybody."""
    run = instance.get_run_by_id(run_id)
    backfill = run.tags.get(BACKFILL_ID_TAG) if run is not None else None
    return f"{BACKFILL} {backfill}" if backfill else "the nightly path"


def _materialized(instance: dg.DagsterInstance, name: str) -> Iterator[tuple[str, str]]:
    """(token of the landing, run id) of every materialization of a collection."""
    cursor = None
    while True:
        page = instance.fetch_materializations(dg.AssetKey(["keen", name]), limit=_PAGE, cursor=cursor)
        for record in page.records:
            assert record.asset_materialization is not None
            value = record.asset_materialization.metadata[LANDING_KEY].value
            assert isinstance(value, str)
            yield value, record.run_id
        if not page.has_more:
            return
        cursor = page.cursor


def _files(rig: Audited, asked: Sequence[Partition], figures: dict[str, Any], wrong: list[str]) -> None:
    """Every file is the direct extraction of its partition, byte by byte, and nothing else lies there."""
    direct = extract_directly(rig, asked)
    lying = rig.files()
    equal = 0
    for (name, day), data in direct.items():
        found = lying.pop(f"{name}/{day}.csv", None)
        if found is None:
            wrong.append(f"{name}/{day}.csv is missing")
        elif found != data:
            wrong.append(f"{name}/{day}.csv differs from a direct extraction")
        else:
            equal += 1
        if lying.pop(manifest_path(f"{name}/{day}.csv"), None) is None:
            wrong.append(f"{name}/{day}.csv has no manifest")
    figures["files equal to a direct extraction"] = equal
    wrong += [f"left over at the destination: {name}" for name in sorted(lying)]


def extract_directly(rig: Audited, asked: Sequence[Partition]) -> Mapping[Partition, bytes]:
    """The partitions' CSVs by plain HTTP, none of the product's code. What the service lets fail is asked for again."""
    http = urllib3.PoolManager(retries=False, headers={"Authorization": rig.keys["read"]})
    root = f"http://127.0.0.1:{rig.port}/2.0/projects/{rig.project}"
    grains = {collection.name: collection.granularity for collection in rig.collections}
    ids: dict[str, Partition] = {}

    def ask(partition: Partition) -> None:
        name, key = partition
        body = {"filters": [], "timeframe": _window(key, grains[name])}
        answer = http.request("POST", f"{root}/{name}/_extract", body=json.dumps(body).encode())
        ids[json.loads(answer.data)["_id"]] = partition

    for partition in asked:
        ask(partition)
    found: dict[Partition, bytes] = {}
    deadline = time.monotonic() + _DIRECT_SECONDS
    while len(found) < len(asked):
        assert time.monotonic() < deadline, "the service did not finish the direct extractions"
        for name in grains:
            for item in json.loads(http.request("GET", f"{root}/{name}/_extract").data)["results"]:
                partition = ids.get(item["_id"])
                if partition is None or partition in found:
                    continue
                if item["status"] == "complete":
                    answer = http.request("GET", item["results_url"])
                    if answer.status == 200:  # else the URL has died since the list call, which the next one replaces
                        found[partition] = answer.data
                elif item["status"] == "failed":
                    del ids[item["_id"]]
                    ask(partition)
        time.sleep(0.5)
    return found


def _window(key: str, grain: Granularity) -> dict[str, str]:
    """The timeframe of a day or an hour in UTC."""
    hourly = grain is Granularity.HOURLY
    start = datetime.strptime(key, "%Y-%m-%d-%H:%M" if hourly else "%Y-%m-%d").replace(tzinfo=timezone.utc)
    end = start + (timedelta(hours=1) if hourly else timedelta(days=1))
    return {"start": format_instant(start), "end": format_instant(end)}


def _secrets(rig: Audited, figures: dict[str, Any], wrong: list[str]) -> None:
    """Keys and signatures in anything outside of the service's own folder: logs, databases, outputs, files."""
    words = [*(secret.encode() for secret in (*rig.keys.values(), *rig.secrets)), b"signature="]
    searched = 0
    for file in sorted(rig.folder.rglob("*")):
        if file.is_file() and rig.service_data not in file.parents:
            data = file.read_bytes()
            searched += len(data)
            wrong += [f"a secret ({word[:10]!r}...) stands in {file.relative_to(rig.folder)}" for word in words if word in data]
    figures["bytes searched for secrets"] = searched
