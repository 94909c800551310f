"""What several services share: a database that is away, read only, newer or another one's; a storage and copies of its files."""

from __future__ import annotations

import io
import shutil
import uuid
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from keen_pipeline.errors import ConfigurationError, RetryableError
from keen_pipeline.service.extractions import worker
from keen_pipeline.service.extractions.records import COMPLETE, FAILED
from keen_pipeline.service.storage.places import StorageError
from keen_pipeline.service.storage.shared.cache import FileCache
from keen_pipeline.service.storage.shared.database import CatalogueUnavailableError, PostgresDatabase
from keen_pipeline.timeframe import UTC, Timeframe
from keen_pipeline_tests.servers.postgres import database
from keen_pipeline_tests.service import stores
from keen_pipeline_tests.service.stores import Place, Services, await_status, delete, fold, n_of, until
from keen_pipeline_tests.service.stores import number as events


def test_a_catalogue_that_is_away_is_an_error_to_retry_and_comes_back(services: Services, postgres: str, postgres_url: str) -> None:
    service = services.open("one")
    service.add_events("shop", [{"n": 1}])
    name = postgres_url.rsplit("/", 1)[1].split("?")[0]
    with psycopg.connect(postgres.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # as a standby is after a failover
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        for _ in range(2):
            with pytest.raises(CatalogueUnavailableError):
                service.add_events("shop", [{"n": 2}])
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        with pytest.raises(CatalogueUnavailableError):
            service.add_events("shop", [{"n": 2}])
        with pytest.raises(CatalogueUnavailableError):
            service.add_events("shop", [{"n": 2}])
        admin.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    made = service.create_extraction("shop", {}, names="v2")
    assert events(service, "shop") == 1
    # Workers, mailer and upkeep have outlived it.
    until(lambda: service.records.get(made.id).status == COMPLETE, "no worker is left")  # type: ignore[union-attr]


def test_a_name_has_one_holder_until_it_ends_or_its_connection_does(catalogue: PostgresDatabase, postgres_url: str) -> None:
    other = PostgresDatabase(postgres_url)
    with catalogue.exclusive("work", 0) as ours:
        assert ours
        with other.exclusive("work", 0.1) as theirs:
            assert not theirs
        with other.exclusive("other work", 0) as theirs:
            assert theirs
        other.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
        )
        with other.exclusive("work", 5) as theirs:
            assert theirs
    other.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://a:very-secret@127.0.0.1/x", "must be postgresql://"),
        ("postgresql://a:very-secret@@127.0.0.1:1/x", "can't be read"),
        ("postgresql://a:very-secret@127.0.0.1:port/x", "can't be"),
        ("postgresql://a:very-secret@127.0.0.1:1/x", "can't be used"),
    ],
)
def test_a_catalogue_that_can_not_be_used_is_named_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        PostgresDatabase(url)
    assert "very-secret" not in str(raised.value)


def test_a_catalogue_of_a_newer_version_is_refused(catalogue: PostgresDatabase, postgres_url: str) -> None:
    catalogue.rows("UPDATE version SET number = 99")
    with pytest.raises(ConfigurationError, match="schema 99"):
        PostgresDatabase(postgres_url)


def put_back(catalogue: PostgresDatabase) -> None:
    """As after a failover to a standby that lacks the second append and its property."""
    catalogue.rows("DELETE FROM event_log WHERE number = 2")
    catalogue.rows("DELETE FROM properties WHERE number = 4")
    catalogue.rows("UPDATE collections SET next_number = 2, properties = 4")


@pytest.mark.parametrize("folded", [False, True])
def test_what_a_standby_that_was_behind_lacks_is_named_again_and_means_the_same_to_all(
    services: Services, catalogue: PostgresDatabase, folded: bool
) -> None:
    one, two = services.open("one"), services.open("two")
    for event in ({"n": 0}, {"n": 1, "x": 1}):
        one.add_events("shop", [event])
    assert stores.n_of(one, "shop") == stores.n_of(two, "shop") == [0, 1]
    if folded:
        stores.fold(one, "shop")
    put_back(catalogue)
    for service in (one, two):
        service.backend.database.server = "another"  # type: ignore[attr-defined]
        with pytest.raises(CatalogueUnavailableError):
            stores.events(service, "shop")
    for service, event in ((one, {"n": 2, "z": 1}), (two, {"n": 3, "y": 2}), (one, {"n": 4, "x": 3})):
        service.add_events("shop", [event])
    expected = [{"n": 0}, *([{"n": 1, "x": 1}] if folded else []), {"n": 2, "z": 1}, {"n": 3, "y": 2}, {"n": 4, "x": 3}]
    for service in (one, two):
        assert [{k: v for k, v in event.items() if k != "keen"} for event in stores.events(service, "shop")] == expected


def test_an_append_that_names_a_property_ends_though_the_database_knows_fewer(
    services: Services, catalogue: PostgresDatabase
) -> None:
    service = services.open("one")
    for event in ({"n": 0}, {"n": 1, "x": 1}):
        service.add_events("shop", [event])
    put_back(catalogue)
    with pytest.raises(CatalogueUnavailableError):
        service.add_events("shop", [{"n": 2, "z": 1}])
    service.add_events("shop", [{"n": 2, "z": 1}])
    assert [event.get("z") for event in stores.events(service, "shop")] == [None, 1]


def test_a_catalogue_and_a_storage_of_two_services_are_refused(
    services: Services, postgres: str, catalogue: PostgresDatabase, tmp_path: Path
) -> None:
    services.open("one").add_events("shop", [{"n": 1}])
    services.open("two")
    with pytest.raises(ConfigurationError, match="do not belong together"):
        Services(tmp_path, services.catalogue, str(tmp_path / "another storage")).open("three")
    with database(postgres, f"t{uuid.uuid4().hex}") as url:
        another = Services(tmp_path, url, services.storage)
        with pytest.raises(ConfigurationError, match="do not belong together"):
            another.open("four")
        (tmp_path / "storage" / "catalogue-id").unlink()
        assert another.open("five").store.names() == []  # as it was told to
        another.close()
        with pytest.raises(ConfigurationError, match="do not belong together"):
            services.open("six")


def test_a_first_start_that_broke_off_is_gone_on_with(services: Services, catalogue: PostgresDatabase, tmp_path: Path) -> None:
    services.open("one")
    catalogue.rows("UPDATE credentials SET value = 'new ' || value WHERE name = 'catalogue-id'")
    for left in (True, False):
        if not left:
            catalogue.rows("UPDATE credentials SET value = 'new ' || value WHERE name = 'catalogue-id'")
            (tmp_path / "storage" / "catalogue-id").unlink()
        services.open(f"again-{left}")
    (row,) = catalogue.rows("SELECT value FROM credentials WHERE name = 'catalogue-id'")
    assert row["value"] == (tmp_path / "storage" / "catalogue-id").read_text()


def test_a_folder_whose_events_are_shared_is_not_served_alone_and_the_other_way_round_is_told(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    services.open("one").add_events("shop", [{"n": 1}])
    alone = Place(services.folder)
    with pytest.raises(ConfigurationError, match="--catalogue and --storage"):
        alone.open("one")
    alone.open("two").add_events("shop", [{"n": 2}])
    alone.close()
    assert n_of(services.open("two"), "shop") == [1]
    assert "the events in the data folder are not served with the shared ones" in caplog.messages


def test_a_file_that_the_storage_has_lost_is_named_and_its_events_can_be_given_up(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PAUSE_SECONDS", 0.01)
    service = services.open("one")
    for n in (1, 2):
        service.add_events("shop", [{"n": n, "keen": {"timestamp": f"2026-01-0{n}T08:00:00Z"}}])
        fold(service, "shop")
    lost = services.files()[0]
    (services.folder / "storage" / "events" / "shop" / lost).unlink()
    service.close()
    services.opened.remove(service)
    other = services.open("other")  # which has no copy of it
    with pytest.raises(StorageError, match=f"lost events/shop/{lost}, 1 events of 2026-01-01T08:00:00Z"):
        n_of(other, "shop")
    asked = other.create_extraction("shop", {}, names="v2")
    await_status(other, asked.id, FAILED)
    assert lost in str(other.records.get(asked.id))
    delete(other, "shop", window=Timeframe(*(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))))
    assert n_of(other, "shop") == [2]


def test_a_data_folder_that_was_emptied_is_not_taken_for_a_storage_that_has_lost_files(services: Services) -> None:
    service = services.open()
    service.add_events("shop", [{"n": 1}])
    fold(service, "shop")
    service.add_events("shop", [{"n": 2}])
    shutil.rmtree(services.folder / "one" / "shared")
    service.add_events("shop", [{"n": 3}])
    assert n_of(service, "shop") == [1, 2, 3]
    assert fold(service, "shop") == 1
    assert n_of(service, "shop") == [1, 2, 3]


def test_a_file_that_is_held_stays_in_a_full_cache_until_it_is_released(tmp_path: Path) -> None:
    objects: Any = SimpleNamespace(open=lambda name: io.BytesIO(b"PAR1" + bytes(100) + b"PAR1"))
    cache = FileCache(tmp_path, objects, max_bytes=50)
    cache.hold(["a", "b"])
    assert [cache.path(name).exists() for name in ("a", "b")] == [True, True]
    cache.hold(["b"])
    cache.release(["a", "b"])
    assert [cache.path(name).exists() for name in ("a", "b")] == [False, True]
    cache.close()


def test_half_a_file_of_the_storage_is_not_taken(tmp_path: Path) -> None:
    objects: Any = SimpleNamespace(open=lambda name: io.BytesIO(b"PAR1" + bytes(100)))
    with pytest.raises(RetryableError, match="incomplete"):
        FileCache(tmp_path, objects, max_bytes=50).hold(["a"])
    assert list(tmp_path.iterdir()) == []
