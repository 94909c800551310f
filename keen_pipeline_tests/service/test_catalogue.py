"""The database of several services: away, read only, of a newer version, named without its password; names that one holds."""

from __future__ import annotations

import uuid
from pathlib import Path

import psycopg
import pytest

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.extractions.records import COMPLETE
from keen_pipeline.service.storage.shared.database import CatalogueUnavailableError, PostgresDatabase
from keen_pipeline_tests.postgres import database
from keen_pipeline_tests.service import stores
from keen_pipeline_tests.service.stores import Services, until
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
