"""The service goes on: threads outlive any item, kinds of work have threads of their own, bytes have bounds, a client that left
leaves no work behind, and a machine that is full is no fault of ours."""

from __future__ import annotations

import errno
import json
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import duckdb
import pytest

from keen_pipeline.errors import KeenPipelineError, RetryableError, ServiceUnavailableError
from keen_pipeline.service import embedded
from keen_pipeline.service.application import Service
from keen_pipeline.service.cancellation import RequestCancelledError, current
from keen_pipeline.service.extractions.records import COMPLETE, NOT_STARTED
from keen_pipeline.service.http import lanes
from keen_pipeline.service.http.answers import error_answer
from keen_pipeline.service.http.app import make_app
from keen_pipeline.service.limits import ByteBudget
from keen_pipeline.service.storage.engine import Engine
from keen_pipeline_tests.service.configured import configured, log_lines
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http


def test_work_of_one_kind_keeps_no_other_waiting_and_too_much_of_it_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "MAX_WAITING", 3)
    release = threading.Event()

    async def run() -> list[str]:
        made, done = lanes.Lanes(), []

        async def wait() -> None:
            try:
                await made.run(lanes.DELETE, lambda: release.wait(60))
            except ServiceUnavailableError as error:
                done.append(f"turned away, {error.retry_after} s")

        async with anyio.create_task_group() as group:
            for _ in range(2 + 3 + 1):
                group.start_soon(wait)
                await anyio.sleep(0.01)
            others = (lanes.HEALTH, lanes.INGEST, lanes.QUERY, lanes.RECORDS, lanes.EVENTS)
            done.extend([await made.run(lane, lambda lane=lane: lane) for lane in others])  # type: ignore[misc]
            release.set()
        return done

    assert anyio.run(run) == ["turned away, 5 s", lanes.HEALTH, lanes.INGEST, lanes.QUERY, lanes.RECORDS, lanes.EVENTS]


class Calls:
    """Requests to the application in this process; what was answered, in that order."""

    def __init__(self, service: Service) -> None:
        self._app, self._keys, self.answered = make_app(service), service.credentials, list[tuple[str, int]]()

    async def ask(self, method: str, path: str) -> None:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.answered.append((path, message["status"]))

        incoming = iter([{"type": "http.request", "body": b'{"a": 1}' if method == "POST" else b""}])

        async def receive() -> dict[str, Any]:
            return next(incoming, None) or await anyio.sleep_forever()

        key = self._keys.master_key if method == "DELETE" else self._keys.write_key if method == "POST" else self._keys.read_key
        resource, _, query = path.partition("?")
        scope = {"type": "http", "scheme": "http", "method": method, "path": resource, "raw_path": resource.encode()}
        query_string = f"api_key={key}&{query}".encode()
        await self._app({**scope, "query_string": query_string, "headers": [], "server": ("x", 1)}, receive, send)

    async def beside(self, release: threading.Event, slow: list[tuple[str, str]], quick: list[tuple[str, str]]) -> None:
        """Twelve of each of the slow ones, which take until they are released, and then the quick ones."""
        async with anyio.create_task_group() as group:
            for one in slow * 12:
                group.start_soon(self.ask, *one)
            await anyio.sleep(0.1)
            try:
                with anyio.fail_after(30):
                    for one in quick:
                        await self.ask(*one)
            finally:
                release.set()


def test_lists_that_take_long_keep_no_poll_of_one_extraction_waiting(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, release = Calls(service), threading.Event()
    monkeypatch.setattr(service.records, "of_collection", lambda *_: (release.wait(60), [])[1])
    made = service.create_extraction("purchases", {}, names="v2")
    path = f"/2.0/projects/{service.credentials.project_id}/purchases/_extract"
    anyio.run(calls.beside, release, [("GET", path)], [("GET", f"{path}/{made.id}")])
    assert calls.answered == [(f"{path}/{made.id}", 200), *[(path, 200)] * 12]


def test_queries_that_take_long_hold_up_no_extraction_that_is_asked_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, release, query = Calls(service), threading.Event(), service.query
    monkeypatch.setattr(service, "query", lambda *given: (release.wait(60), query(*given))[1])
    queries = f"/3.0/projects/{service.credentials.project_id}/queries"
    count, extraction = (f"{queries}/{kind}?event_collection=purchases" for kind in ("count", "extraction"))
    anyio.run(calls.beside, release, [("GET", count)], [("GET", f"{extraction}&email=ada@example.com")])
    assert calls.answered == [(f"{extraction}&email=ada@example.com", 200), *[(count, 200)] * 12]


def test_counts_and_deletes_that_take_long_hold_up_neither_health_nor_ingest(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, release, snapshot = Calls(service), threading.Event(), service.store.snapshot
    monkeypatch.setattr(service.store, "snapshot", lambda name: (release.wait(60), snapshot(name))[1])
    base = f"/3.0/projects/{service.credentials.project_id}"
    count, events = f"{base}/queries/count?event_collection=purchases", f"{base}/events/purchases"
    anyio.run(calls.beside, release, [("GET", count), ("DELETE", events)], [("GET", "/healthz"), ("POST", events)])
    assert calls.answered[:2] == [("/healthz", 200), (events, 201)]
    assert sorted(calls.answered[2:]) == [(events, 204)] * 12 + [(count, 200)] * 12


def test_a_file_at_once_needs_no_folder_but_the_service_s_own(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # as in a container whose root can't be written to
    calls, path = Calls(service), f"/3.0/projects/{service.credentials.project_id}/queries/extraction"
    anyio.run(calls.ask, "GET", f"{path}?event_collection=purchases&content_type=text/csv")
    assert [status for _, status in calls.answered] == [200]
    assert list((service.config.data / "results").iterdir()) == []


class Client:
    """A request whose client leaves when it is told to."""

    def __init__(self) -> None:
        self.left = anyio.Event()

    async def receive(self) -> dict[str, str]:
        await self.left.wait()
        return {"type": "http.disconnect"}


def test_the_work_of_a_client_that_left_is_cancelled_whether_it_runs_or_waits(tmp_path: Path) -> None:
    engine = Engine(tmp_path, 128, 60)

    def endless() -> Any:
        with engine.query() as cursor:
            return cursor.execute("SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b").fetchall()

    async def run() -> list[type[BaseException]]:
        made, ends = lanes.Lanes(), []
        clients = [Client() for _ in range(9)]  # one more than there are threads

        async def ask(client: Client) -> None:
            try:
                await made.run_while_connected(lanes.QUERY, client, endless)  # type: ignore[arg-type]
            except Exception as error:
                ends.append(type(error))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for client in clients:
                    group.start_soon(ask, client)
                await anyio.sleep(0.5)
                assert ends == []
                clients[-1].left.set()  # it waits for a thread, and need not get one to be let go
                await anyio.sleep(0.5)
                assert len(ends) == 1
                for client in clients:
                    client.left.set()
            stayed = await made.run_while_connected(lanes.QUERY, Client(), lambda: 7)  # type: ignore[arg-type]
        assert stayed == 7
        return ends

    try:
        assert {one.__name__ for one in anyio.run(run)} == {"ClientDisconnect"}
    finally:
        engine.close()


def test_a_cancelled_request_opens_no_further_cursor(tmp_path: Path) -> None:
    engine, left = Engine(tmp_path, 128, 60), threading.Event()
    token = current.set(left)

    def ask() -> None:
        with engine.query() as cursor:
            left.set()  # between two statements
            cursor.execute("SELECT count(*) FROM range(100000000000) a(x) WHERE hash(x) = 1")

    with pytest.raises(RequestCancelledError):
        ask()
    with pytest.raises(RequestCancelledError), engine.query():
        raise AssertionError("a cursor was opened")
    current.reset(token)
    with engine.query() as cursor:
        assert cursor.execute("SELECT 1").fetchone() == (1,)
    engine.close()


@pytest.mark.slow
def test_a_slow_query_ends_when_its_client_leaves_and_health_answers_meanwhile(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        http = Http(service.endpoint)
        for _ in range(20):
            http.add("large", *[{"text": f"abc{n}" * 50} for n in range(20_000)])
        condition = {"property_name": "text", "operator": "regex", "property_value": "(a|b|c)*(\\d+a)+$"}
        body = json.dumps({"event_collection": "large", "filters": [condition] * 150})

        def ask() -> None:
            try:
                key = {"Authorization": service.endpoint.read_key}
                Http(service.endpoint).pool.request(
                    "POST", service.endpoint.base_url + f"{http.v3}/queries/count", body=body, headers=key, timeout=5
                )
            except Exception:
                pass

        asking = [threading.Thread(target=ask) for _ in range(45)]
        for thread in asking:
            thread.start()
        for _ in range(20):
            assert http.json("GET", "/healthz", key=None)["status"] == "ok"
            http.add("other", {"a": 1})
        for thread in asking:
            thread.join()
        deadline = time.monotonic() + 30
        while len(ended := [one for one in log_lines(service) if str(one.get("path")).endswith("/queries/count")]) < 45:
            assert time.monotonic() < deadline, "queries went on without their clients"
            time.sleep(0.1)
        # Some may have been answered before their client left.
        assert 400 in {one["status"] for one in ended} <= {200, 400}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    """A service that answers little at once."""
    limits = {"max_answer_bytes": 100_000, "max_list": 50, "max_queue": 50, "max_parameter_bytes": 4096, "pending_body_mib": 16}
    with configured(tmp_path_factory.mktemp("small") / "data", **limits) as made:
        yield Http(made.endpoint)


@pytest.mark.parametrize("content_type", ["application/json", "text/csv"])
def test_an_answer_is_bounded_in_bytes_before_it_is_made(small: Http, content_type: str) -> None:
    name = f"wide-{content_type[:4]}"
    small.add(name, *[{"n": n, "text": "x" * 30_000} for n in range(5)])
    asked = {"event_collection": name, "content_type": content_type}
    answer = small.request("POST", f"{small.v3}/queries/extraction", body=asked)
    assert (answer.status, answer.json()["error_code"]) == (400, "ExtractionTooLargeError")
    assert small.request("POST", f"{small.v3}/queries/extraction", body={**asked, "latest": 2}).status == 200
    assert small.request("POST", f"{small.v3}/queries/extraction", body={**asked, "property_names": ["n"]}).status == 200


def test_unique_values_are_bounded_in_bytes_and_repeated_ones_are_not_counted_twice(small: Http) -> None:
    small.add("texts", *[{"same": "y" * 30_000, "other": str(n) * 30_000} for n in range(5)])
    assert small.query("select_unique", "texts", target_property="same") == ["y" * 30_000]
    assert small.query("count_unique", "texts", target_property="missing") == 0
    assert small.query("count_unique", "texts", target_property="other") == 5  # nothing of them is answered
    assert small.json("GET", f"{small.v2}/texts/_count_unique?unique_property=other") == {"result": 5}
    asked = {"event_collection": "texts", "target_property": "other"}
    answer = small.request("POST", f"{small.v3}/queries/select_unique", body=asked)
    assert (answer.status, answer.json()["error_code"]) == (400, "ExtractionTooLargeError")
    assert small.request("GET", f"{small.v2}/texts/_select_unique?distinct_property=other").status == 400


def test_every_parameter_is_bounded_in_bytes(small: Http) -> None:
    small.add("filters", {"a": 1})
    for size, status in ((3000, 200), (5000, 400)):
        filters = [{"property_name": "a", "operator": "ne", "property_value": "x" * size}]
        assert (
            small.request("POST", f"{small.v3}/queries/count", body={"event_collection": "filters", "filters": filters}).status
            == status
        )
        answer = small.request("POST", f"{small.v2}/filters/_extract", body={"filters": filters})
        assert answer.status == status
    assert answer.json()["field"] == "filters"
    names = [f"name{n}" for n in range(900)]
    answer = small.request("POST", f"{small.v3}/queries/extraction", body={"event_collection": "filters", "property_names": names})
    assert (answer.status, answer.json()["field"]) == (400, "property_names")


def test_a_list_is_bounded_in_number_and_in_the_bytes_of_its_filters_and_tells_every_status(small: Http) -> None:
    small.add("listed", {"a": 1})
    filters = [{"property_name": "a", "operator": "ne", "property_value": "x" * 1000}]
    path = f"{small.v2}/listed/_extract"
    ids = []
    for _ in range(60):
        while (made := small.request("POST", path, body={"filters": filters})).status == 429:
            time.sleep(0.1)
        ids.append(made.json()["_id"])
    answer = small.request("GET", path)
    listed = answer.json()["results"]
    assert [one["_id"] for one in listed] == ids[-50:]
    assert all(one["status"] in ("not started", "complete") for one in listed)
    echoed = ["filters" in one for one in listed]
    assert 5 < sum(echoed) < 20  # an eighth of the bytes of an answer
    assert echoed == sorted(echoed)  # the newest have them
    assert len(answer.data) < 100_000
    assert [one["_id"] for one in small.json("GET", f"{path}?limit=2")["results"]] == ids[-2:]
    for limit in ("0", "x", "1000000"):
        assert small.request("GET", f"{path}?limit={limit}").status == 400


def test_a_list_shows_what_is_open_before_what_has_ended(data: Path) -> None:
    with configured(data, max_list=3, max_queue=3, extraction_delay=3600) as made:
        http = Http(made.endpoint)
        http.add("purchases", {"a": 1})
        opened = [http.json("POST", f"{http.v2}/purchases/_extract", body={})["_id"] for _ in range(2)]
    with configured(data, max_list=3, max_queue=3) as made:
        http = Http(made.endpoint)
        for _ in range(3):
            http.extract("purchases")
        listed = http.json("GET", f"{http.v2}/purchases/_extract")["results"]
        assert [one["_id"] for one in listed[:2]] == opened
        assert [one["status"] for one in listed] == [NOT_STARTED, NOT_STARTED, COMPLETE]
        assert (listed[2]["events"], listed[2]["bytes"] > 0) == (1, True)


def test_the_bodies_of_all_requests_together_have_a_bound() -> None:
    budget = ByteBudget(100)
    budget.take(60)
    with pytest.raises(ServiceUnavailableError) as refused:
        budget.take(41)
    assert refused.value.retry_after == 1
    budget.take(40)
    budget.release(100)
    assert budget.held == 0


def test_bodies_are_given_back_when_a_request_ends_however_it_does(small: Http) -> None:
    body = b'{"a": "' + b"x" * 9_000_000 + b'"}'
    for _ in range(4):  # each more than half of what all may hold
        assert small.request("POST", f"{small.v3}/events/bodies", body=body).status == 400
        assert small.request("POST", f"{small.v3}/queries/count", body=body).status == 413


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (lambda: OSError(errno.ENOSPC, "No space left on device"), 507),
        (lambda: OSError(errno.EDQUOT, "Disk quota exceeded"), 507),
        (lambda: OSError(errno.EFBIG, "File too large"), 507),
        (lambda: duckdb.IOException("Could not write file: No space left on device"), 507),
        (lambda: OSError(errno.EMFILE, "Too many open files"), 503),
        (lambda: duckdb.IOException("Cannot open file: Too many open files"), 503),
        (lambda: duckdb.OutOfMemoryException("failed to allocate"), 503),
        (MemoryError, 503),
        (lambda: RetryableError("away"), 503),
        (lambda: OSError(errno.EACCES, "Permission denied"), 500),
        (lambda: IndexError("x"), 500),
    ],
)
def test_a_machine_that_is_full_is_no_fault_of_the_service(error: Callable[[], Exception], status: int) -> None:
    answer = error_answer(error())
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status != 500)
    assert set(json.loads(bytes(answer.body))) == {"message", "error_code"}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (sqlite3.SQLITE_FULL, 507),
        (sqlite3.SQLITE_IOERR | 10 << 8, 507),
        (sqlite3.SQLITE_BUSY, 503),
        (sqlite3.SQLITE_CANTOPEN, 503),
        (sqlite3.SQLITE_READONLY, 503),
        (sqlite3.SQLITE_ERROR, 500),
    ],
)
def test_nor_is_a_database_that_is_full_or_locked_or_can_not_be_opened(
    service: Service, monkeypatch: pytest.MonkeyPatch, code: int, status: int
) -> None:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    database = service.backend.database
    monkeypatch.setattr(database, "_connection", Mock(execute=Mock(side_effect=error), in_transaction=False))
    with pytest.raises((KeenPipelineError, sqlite3.OperationalError)) as raised:
        service.records.count_waiting()
    assert error_answer(raised.value).status_code == status
    monkeypatch.undo()


def test_a_sum_past_the_range_of_a_double_is_refused(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1.7e308}, {"a": 1.7e308})
    answer = http.request("POST", f"{http.v3}/queries/sum", body={"event_collection": collection, "target_property": "a"})
    assert (answer.status, answer.json()["field"]) == (400, "target_property")
    assert http.query("average", collection, target_property="a") == 1.7e308


def test_a_length_said_in_two_ways_is_refused(http: Http, collection: str) -> None:
    from keen_pipeline_tests.service.http.test_protocol import exchange

    head = f"POST {http.v3}/events/{collection} HTTP/1.1\r\nHost: x\r\nAuthorization: {http.endpoint.write_key}\r\n"
    framing = 'Content-Length: 8\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n0\r\n\r\n'
    status, headers, body = exchange(http, (head + framing).encode())
    assert (status, headers["connection"], json.loads(body)["error_code"]) == (400, "close", "InvalidRequestError")
    assert http.request("GET", f"{http.v3}/events/{collection}").status == 404
