"""Extractions of several services on one catalogue: turns, limits, mails, results and credentials are everybody's, once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.errors import ConfigurationError, RateLimitedError
from keen_pipeline.service.application import Service
from keen_pipeline.service.extractions import worker
from keen_pipeline.service.extractions.records import COMPLETE, FAILED, MAIL_CLAIM_SECONDS, NOT_STARTED, ExtractionRecords, Turn
from keen_pipeline.service.storage.shared.database import PostgresDatabase
from keen_pipeline_tests.service.stores import Services, until


def test_the_turn_of_a_process_that_died_goes_to_another_and_its_late_end_counts_for_nothing(
    services: Services, catalogue: PostgresDatabase
) -> None:
    earlier = services.open("earlier")
    earlier.add_events("shop", [{"n": 1}])
    services.close()
    records, other = ExtractionRecords(catalogue, 2.0), ExtractionRecords(catalogue, 2.0)
    made = records.create("shop", names="v2", filters=(), timeframe=None, email=None, delay=0, max_queue=10)
    assert records.take_turn(()) == Turn(made.id, 1, 0)
    assert other.take_turn(()) is None
    services.open("later")
    until(lambda: records.get(made.id).status == COMPLETE, "nobody took it over")  # type: ignore[union-attr]
    found = records.get(made.id)
    assert found is not None
    assert (found.turn, found.events) == (2, 1)
    assert not records.finish(Turn(made.id, 1), FAILED, events=None, size=None, message="late")
    assert records.get(made.id) == found


def test_turns_are_taken_once_and_held_while_they_are_renewed(catalogue: PostgresDatabase) -> None:
    processes = [ExtractionRecords(catalogue, 1.0) for _ in range(3)]
    for _ in range(20):
        processes[0].create("shop", names="v2", filters=(), timeframe=None, email=None, delay=0, max_queue=100)
    taken: list[Turn] = []

    def take(process: ExtractionRecords) -> None:
        while turn := process.take_turn(()):
            taken.append(turn)

    long = [ExtractionRecords(catalogue, 60.0) for _ in range(3)]
    threads = [threading.Thread(target=take, args=(process,)) for process in long]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({turn.extraction_id for turn in taken}) == len(taken) == 20
    held = "SELECT turn, held_until FROM extractions WHERE id = ?"
    (first,) = catalogue.rows(held, [taken[0].extraction_id])
    for process in long:  # of which one has it
        process.renew([taken[0]])
    (later,) = catalogue.rows(held, [taken[0].extraction_id])
    assert later["held_until"] > first["held_until"]
    assert later["turn"] == first["turn"] == 1
    long[0].put_off(taken[0], 0)
    for process in long:
        process.renew([taken[0]])
    assert processes[1].take_turn(()) == Turn(taken[0].extraction_id, 2, 0)
    until(lambda: processes[2].take_turn([turn.extraction_id for turn in taken[1:]]), "no lease ended")
    assert catalogue.rows("SELECT lost FROM extractions WHERE id = ?", [taken[0].extraction_id])[0]["lost"] == 1


def test_a_turn_that_is_renewed_after_it_was_seen_to_have_ended_is_not_taken(
    catalogue: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = ExtractionRecords(catalogue, 60.0), ExtractionRecords(catalogue, 60.0)
    slow.create("shop", names="v2", filters=(), timeframe=None, email=None, delay=0, max_queue=100)
    turn = slow.take_turn(())
    assert turn is not None
    catalogue.rows("UPDATE extractions SET held_until = 0")
    usual, looks = catalogue.rows, iter([True])

    def rows(sql: str, parameters: Any = ()) -> Any:
        found = usual(sql, parameters)
        if "not_before" in sql and next(looks, False):
            slow.renew([turn])
        return found

    monkeypatch.setattr(catalogue, "rows", rows)
    assert other.take_turn(()) is None


def test_the_turn_of_a_slow_extraction_is_renewed_while_it_is_written(
    services: Services, catalogue: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services.open("slow", lease_seconds=1)
    services.open("other", lease_seconds=1)
    service.add_events("shop", [{"n": 1}])
    usual = worker.write_csv

    def slow(*args: Any, **options: Any) -> int:
        time.sleep(2.5)
        return usual(*args, **options)

    monkeypatch.setattr(worker, "write_csv", slow)
    made = service.create_extraction("shop", {}, names="v2")
    until(lambda: service.records.get(made.id).status == COMPLETE, "it did not end")  # type: ignore[union-attr]
    assert catalogue.rows("SELECT turn, lost FROM extractions") == [{"turn": 1, "lost": 0}]


def test_an_extraction_that_ends_its_processes_is_given_up(services: Services, catalogue: PostgresDatabase) -> None:
    records = ExtractionRecords(catalogue, 30.0)
    made = records.create("shop", names="v2", filters=(), timeframe=None, email=None, delay=0, max_queue=1)
    catalogue.rows("UPDATE extractions SET lost = 5, turn = 5")
    services.open("one")
    until(lambda: records.get(made.id).status != NOT_STARTED, "it was not given up")  # type: ignore[union-attr]
    found = records.get(made.id)
    assert found is not None
    assert (found.status, found.message) == (FAILED, "given up: the service ended 5 times while it wrote this extraction")


def test_the_limit_of_a_minute_and_the_queue_hold_for_all(services: Services, catalogue: PostgresDatabase) -> None:
    settings: Mapping[str, Any] = {"requests_per_minute": 5, "mails_per_minute": 2, "max_queue": 3, "extraction_delay": 3600}
    one, other = services.open("one", **settings), services.open("other", **settings)
    one.add_events("shop", [{"n": 1}])
    for n in range(5):
        (one, other)[n % 2].count_request("query")
    for service in (one, other, one):
        with pytest.raises(RateLimitedError) as raised:
            service.count_request("query")
        assert raised.value.retry_after is not None
        assert 50 < raised.value.retry_after <= 60
    other.count_request("extraction")
    for changed in ("request_kinds SET refused_until = refused_until + 86400", "requests SET at = at + 86400"):
        catalogue.rows(f"UPDATE {changed}")  # by a clock that was ahead
    for _ in range(5):
        other.count_request("query")
    other.count_request("extraction")
    for service in (one, other):
        service.count_request("mail")
    for service in (one, other):
        with pytest.raises(RateLimitedError):
            service.create_extraction("shop", {"email": "ada@example.com"}, names="v2")

    outcomes: list[str] = []

    def create(service: Service) -> None:
        try:
            service.create_extraction("shop", {}, names="v2")
            outcomes.append("made")
        except RateLimitedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create, args=((one, other)[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] * 3 + ["refused"] * 5


def test_old_results_go_with_all_their_turns(services: Services, catalogue: PostgresDatabase) -> None:
    service = services.open("one", retention_seconds=3600)
    service.add_events("shop", [{"n": 1}])
    made = service.create_extraction("shop", {}, names="v2")
    until(lambda: service.records.get(made.id).status == COMPLETE, "it did not end")  # type: ignore[union-attr]
    results = services.folder / "storage" / "results"
    assert [path.name for path in results.iterdir()] == [f"{made.id}-1.csv"]
    catalogue.rows("UPDATE extractions SET turn = 2, finished = finished - 3601")
    (results / f"{made.id}-2.csv").write_text("a turn that was lost after it published\n")
    services.open("sweeper", retention_seconds=3600)
    until(lambda: service.records.get(made.id) is None, "the record stayed")
    assert list(results.iterdir()) == []


def test_a_mail_is_one_process_s_to_send_and_another_s_once_that_died(catalogue: PostgresDatabase) -> None:
    records = ExtractionRecords(catalogue, 30.0)
    made = []
    for _ in range(12):
        one = records.create("shop", names="v2", filters=(), timeframe=None, email="a@example.com", delay=0, max_queue=100)
        assert records.finish(Turn(one.id), COMPLETE, events=1, size=1, message="a\0b")
        made.append(one.id)
    claimed: list[str] = []

    def send() -> None:
        while due := records.claim_mail(records.now()):
            claimed.append(due.id)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(made)
    later = records.now() + MAIL_CLAIM_SECONDS + 1
    again = records.claim_mail(later)
    assert again is not None
    assert again.message == "ab"
    records.mail_tried(again.id, "sent", later)
    rest = [records.claim_mail(later) for _ in range(12)]
    assert again.id not in [one.id for one in rest if one is not None]


def test_all_have_the_same_credentials(services: Services, tmp_path: Path) -> None:
    one, other = services.open("one"), services.open("other")
    assert one.credentials == other.credentials
    renamed = services.open("third", read_key="a-key-from-the-environment")
    assert renamed.credentials.read_key == "a-key-from-the-environment"
    assert renamed.credentials.signing_key == one.credentials.signing_key
    assert services.open("fourth").credentials == renamed.credentials
    kept = json.loads((tmp_path / "fourth" / "credentials.json").read_text())
    assert kept["project_id"] == one.credentials.project_id
    with pytest.raises(ConfigurationError, match="must differ"):
        services.open("fifth", write_key="a-key-from-the-environment")
