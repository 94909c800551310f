"""Tables as a copy taken file by file, another program, or a disk leaves them."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import duckdb
import pytest
from deltalake import DeltaTable

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.endpoint import exclusive
from keen_pipeline.service.extractions import worker
from keen_pipeline.service.extractions.records import FAILED
from keen_pipeline.service.storage.places import StorageError
from keen_pipeline.timeframe import UTC, Timeframe
from keen_pipeline_tests.service.stores import (
    Place,
    Services,
    await_status,
    collection_of,
    delete,
    events,
    fold,
    merge,
    n_of,
    rule,
    store_of,
)


@pytest.mark.parametrize("version", [2, 9])
def test_a_hint_to_a_checkpoint_that_the_copy_lacks_is_no_loss(folder: Place, tmp_path: Path, version: int) -> None:
    service = folder.open()
    for n in range(3):
        service.add_events("shop", [{"n": n}])
        fold(service, "shop")
    store_of(service).sweep(collection_of(service, "shop"), 0)
    folder.close()
    commits = tmp_path / "one" / "events" / "shop" / "_delta_log"
    (commits / "_last_checkpoint").write_text(json.dumps({"version": version, "size": 3}))
    again = folder.open()
    assert n_of(again, "shop") == [0, 1, 2]
    again.add_events("shop", [{"n": 3}])
    fold(again, "shop")
    assert n_of(again, "shop") == [0, 1, 2, 3]


@pytest.mark.parametrize("away", ["events/shop", "events"])
def test_tables_that_are_away_for_a_start_cost_no_event(folder: Place, tmp_path: Path, away: str) -> None:
    """As on a disk of their own that was not mounted."""
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    fold(service, "shop")
    store_of(service).sweep(collection_of(service, "shop"), 0)
    service.add_events("shop", [{"n": 2}])
    folder.close()
    place = tmp_path / "one" / away
    place.rename(tmp_path / "unmounted")
    again = folder.open()
    with pytest.raises(ConfigurationError, match="logs do not reach back"):
        again.add_events("shop", [{"n": 3}])
    folder.close()
    shutil.rmtree(place, ignore_errors=True)
    (tmp_path / "unmounted").rename(place)
    assert n_of(folder.open(), "shop") == [1, 2]


def test_tables_that_were_restored_alone_are_served(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    fold(service, "shop")
    folder.close()
    shutil.copytree(tmp_path / "one" / "events", tmp_path / "restored" / "events")
    with exclusive(tmp_path / "restored"):
        again = folder.open("restored")
    assert n_of(again, "shop") == [1]
    again.add_events("shop", [{"n": 2}])
    assert n_of(again, "shop") == [1, 2]


def test_files_that_another_program_made_of_ours_are_read_deleted_from_and_merged(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    for n in range(3):
        service.add_events("shop", [{"n": n}])
        fold(service, "shop")
    folder.close()
    DeltaTable(str(tmp_path / "one" / "events" / "shop")).optimize.compact()
    again = folder.open()
    for n in range(3, 12):
        again.add_events("shop", [{"n": n}])
        fold(again, "shop")
    assert delete(again, "shop", {"property_name": "n", "operator": "eq", "property_value": 1}) == 1
    assert merge(again, "shop")
    found = n_of(again, "shop")
    assert (sorted(found[:2]), found[2:]) == ([0, 2], list(range(3, 12)))


@pytest.mark.parametrize("left", [None, b"PAR1"])
def test_a_lost_file_whose_log_is_gone_is_named_and_its_events_can_be_given_up(
    folder: Place, tmp_path: Path, left: bytes | None
) -> None:
    service = folder.open()
    for n in (1, 2):
        service.add_events("shop", [{"n": n, "keen": {"timestamp": f"2026-01-0{n}T08:00:00Z"}}])
        fold(service, "shop")
    store_of(service).sweep(collection_of(service, "shop"), 0)
    folder.close()
    first, _ = sorted((tmp_path / "one" / "events" / "shop").glob("*.parquet"))
    first.unlink() if left is None else first.write_bytes(left)
    again = folder.open()
    assert again.add_events("shop", [{"n": 3}]) == [None]
    with pytest.raises(StorageError, match=f"lost events/shop/{first.name}, 1 events of 2026-01-01T08:00:00Z"):
        n_of(again, "shop")
    delete(again, "shop", window=Timeframe(*(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))))
    assert n_of(again, "shop") == [2, 3]


def spoil(path: Path, begin: int, end: int | None = None) -> None:
    """Other bytes in the place of some, as a failing disk leaves them; the length stays."""
    text = bytearray(path.read_bytes())
    text[begin:end] = bytes(len(text[begin:end]))
    path.write_bytes(text)


@pytest.mark.parametrize(("begin", "end"), [(-64, None), (4, 400)])
def test_a_damaged_file_is_named_its_events_can_be_given_up_and_others_are_read(
    folder: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: int, end: int | None
) -> None:
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.01)
    service = folder.open()
    for n in range(1, 10):
        service.add_events("shop", [{"n": n, "keen": {"timestamp": f"2026-01-0{n}T08:00:00Z"}}])
        fold(service, "shop")
    service.add_events("other", [{"n": 1}])
    first = sorted(tmp_path.rglob("events/shop/*.parquet"))[0]
    spoil(first, begin, end)
    problem = f"damaged events/shop/{first.name}, 1 events of 2026-01-01T08:00:00Z"
    for action in (n_of, merge, lambda *of: delete(*of, rule("n", "eq", 1))):
        with pytest.raises(StorageError, match=problem):
            action(service, "shop")
    asked = service.create_extraction("shop", {}, names="v2")
    await_status(service, asked.id, FAILED)
    assert problem in str(service.records.get(asked.id))
    service.add_events("shop", [{"n": 10}])
    assert n_of(service, "other") == [1]
    delete(service, "shop", window=Timeframe(*(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))))
    assert n_of(service, "shop") == list(range(2, 11))


def test_a_machine_that_can_open_no_file_is_not_taken_for_damage(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    fold(service, "shop")
    error = duckdb.IOException('Cannot open file "x": Too many open files')
    cursor = Mock(execute=Mock(side_effect=error))

    def read() -> None:
        with service.store.snapshot("shop") as snapshot:
            snapshot.fetch(snapshot.segments)
            cursor.execute("SELECT 1")

    monkeypatch.setattr(service.engine, "query", lambda: nullcontext(cursor))
    with pytest.raises(duckdb.IOException, match="Too many open files"):
        read()


def test_a_damaged_footer_of_our_own_hides_no_events(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1, "text": "a\nb"}])
    fold(service, "shop")
    folder.close()
    (path,) = tmp_path.rglob("events/shop/*.parquet")
    path.write_bytes(path.read_bytes().replace(b'{"bytes":', b'{"bytes"!'))
    assert [(event["n"], event["text"]) for event in events(folder.open(), "shop")] == [(1, "a\nb")]


def test_a_damaged_copy_of_a_file_in_the_storage_is_fetched_again(services: Services, tmp_path: Path) -> None:
    service = services.open()
    service.add_events("shop", [{"n": 1}])
    fold(service, "shop")
    (copy,) = (path for path in tmp_path.rglob("*.parquet") if "storage" not in path.relative_to(tmp_path).parts)
    spoil(copy, -64)
    with pytest.raises(StorageError, match="damaged events/shop/"):
        n_of(service, "shop")
    assert n_of(service, "shop") == [1]
