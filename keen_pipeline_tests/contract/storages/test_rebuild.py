"""A ledger made anew from manifests of which some are damaged: each is told, and keeps no other landing from being taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.layout import manifest_path
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.files.manifests import SCHEMA, Manifest, read_manifest
from keen_pipeline.pipeline.files.rebuild import Rebuilt, rebuild
from keen_pipeline.scope import Scope
from keen_pipeline.testing import FakeClock
from keen_pipeline_tests.contract.database.test_restore import lost
from keen_pipeline_tests.ledgers import clock, ledger, url

__all__ = ["clock", "ledger", "url"]

# What a manifest may say in one of its fields after a disk, a person or another program was at it.
NUMBERS = ["12", -1, 2**70, 1.5, True, {}, []]
TEXTS = [5, "", "x" * 2049, "a\0b", "\ud800", {}]
DAMAGE: dict[str, list[Any]] = {
    "partition": [*TEXTS, None],
    "collection": [*TEXTS, None, "_x", "../purchases", "logins"],
    "extraction_id": TEXTS,
    "token": [*TEXTS, None],
    "sha256": [*TEXTS, None],
    "mask_key": TEXTS,
    "path": [*TEXTS, None, "../x.csv", "/etc/passwd", "logins/2026-01-01.csv"],
    "expected": NUMBERS,
    "counted": NUMBERS,
    "events": [*NUMBERS, None],
    "bytes": [*NUMBERS, None],
    "stored_bytes": [*NUMBERS, None],
    "attempt": [*NUMBERS, None, 2**31],
    "seconds": ["nan", "inf", -1, None, {}],
    "mask": [{"a": 5}, {"a": "shred"}, []],
    "masked": [{"a": 5}, []],
    "columns": [
        5,
        [5],
        [{"name": 5, "type": None, "property_type": None}],
        [{"name": "\ud800", "type": None, "property_type": None}],
    ],
    "kind": ["slice", "other", None],
    "timeframe": [{}, {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}],
    "landed_at": [None, 5, "yesterday"],
    "filters": [[{"x": 1}], 5],
    "version": [2, "1", None],
}


def landed_at(root: Path, ledger: SqlLedger, clock: FakeClock, number: int, **damage: Any) -> str:
    """A file with its manifest, which says something else; answers the manifest's path."""
    entry = lost(ledger, clock, number, token=f"{number:016x}")
    (root / entry.request.path).parent.mkdir(parents=True, exist_ok=True)
    (root / entry.request.path).write_bytes(b"x" * 10)
    assert entry.landed_at is not None
    document = json.loads(Manifest.of(entry, ledger.scope, entry.landed_at).to_json()) | damage
    beside = root / manifest_path(entry.request.path)
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_text(json.dumps(document))
    return str(beside)


def rebuilt(ledger: SqlLedger, clock: FakeClock, root: Path) -> tuple[SqlLedger, FileDestination]:
    destination = FileDestination(str(root))
    return SqlLedger(ledger.engine, Scope("projects/p1", destination.uri), clock=clock), destination


def keys(found: Rebuilt) -> list[str]:
    return [entry.request.partition_key for entry in found.restored]


def test_a_damaged_manifest_is_told_and_keeps_no_other(ledger: SqlLedger, clock: FakeClock, tmp_path: Path) -> None:
    mine, destination = rebuilt(ledger, clock, tmp_path)
    damaged = [
        landed_at(tmp_path, mine, clock, number, **{field: value})
        for number, (field, value) in enumerate(((f, v) for f, values in DAMAGE.items() for v in values), start=2)
    ]
    landed_at(tmp_path, mine, clock, 0)
    landed_at(tmp_path, mine, clock, 1)
    found = rebuild(mine, destination)
    assert keys(found) == ["2026-01-01", "2026-01-02"]
    assert sorted(uri for uri, _ in found.problems) == sorted(damaged)
    assert [entry.is_whole for entry in mine.landed_entries("purchases")] == [True, True]


def test_a_manifest_that_was_copied_beside_another_file_is_not_taken_twice(
    ledger: SqlLedger, clock: FakeClock, tmp_path: Path
) -> None:
    mine, destination = rebuilt(ledger, clock, tmp_path)
    right = Path(landed_at(tmp_path, mine, clock, 0))
    copy = right.with_name("2026-01-01 (copy).csv.json")
    copy.write_bytes(right.read_bytes())
    found = rebuild(mine, destination)
    assert keys(found) == ["2026-01-01"]
    assert found.problems == ((str(copy), "it tells of a file at another place, purchases/2026-01-01.csv"),)
    assert mine.stale_files() == []


def test_manifests_of_a_long_history_hold_each_name_once(ledger: SqlLedger, clock: FakeClock, tmp_path: Path) -> None:
    mine, destination = rebuilt(ledger, clock, tmp_path)
    for number in range(3):
        landed_at(tmp_path, mine, clock, number)
    told = [found.manifest for found in manifests.all_of(destination) if found.manifest is not None]
    names = [name for manifest in told for name in manifest.landing.columns]
    assert len(names) > len({id(name) for name in names}) == len(set(names))


@pytest.mark.parametrize(
    "damage", [{"version": "\x1b[31m" + "x" * 5_000}, {"collection": "\x1b[31m" + "x" * 5_000}, {"version": {}}]
)
def test_what_a_foreign_manifest_says_reaches_no_terminal(damage: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        read_manifest(json.dumps({"schema": SCHEMA, "version": 1, **damage}).encode())
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 700
