"""Connections that stand still: bounded in number and in time, and never in a working client's way."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock
from urllib.parse import urlsplit

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.service import embedded
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.http.resources import queries
from keen_pipeline.service.http.server.connections import MAX_HEAD_BYTES_TOGETHER, MAX_UNREAD_BYTES, Connections
from keen_pipeline.service.http.server.protocol import BoundedProtocol
from keen_pipeline.service.http.server.serve import _Server
from keen_pipeline_tests.service.configured import configured
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    """A service with few places and little patience."""
    data = tmp_path_factory.mktemp("hasty") / "data"
    with configured(data, head_seconds=0.5, stalled_seconds=1, max_connections=20) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        yield http


def connect(http: Http, sent: bytes = b"") -> socket.socket:
    url = urlsplit(http.endpoint.base_url)
    connection = socket.create_connection((url.hostname, url.port), timeout=20)
    connection.sendall(sent)
    return connection


def rest(connection: socket.socket) -> bytes:
    """Everything until the service closes the connection."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def half_body(http: Http) -> bytes:
    head = f"POST {http.v3}/events/purchases HTTP/1.1\r\nHost: x\r\nAuthorization: {http.endpoint.write_key}\r\n"
    return head.encode() + b'Content-Length: 1000\r\n\r\n{"a": '


HALF_HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("sent", [b"", HALF_HEAD], ids=["silent", "half a head"])
def test_a_head_that_does_not_come_ends_the_connection_with_an_answer(hasty: Http, sent: bytes) -> None:
    with connect(hasty, sent) as connection:
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_code"] == "RequestTimeoutError"


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(hasty: Http) -> None:
    with connect(hasty, half_body(hasty).replace(b"1000", b"99999999")) as connection:
        assert b'"the body has 99999999 bytes, the limit is 10485760"' in rest(connection)


def test_half_heads_are_bounded_together_and_whole_ones_are_answered(http: Http) -> None:
    large = b"GET /?" + b"a" * 1_000_000
    with ExitStack() as stack:
        half = [stack.enter_context(connect(http)) for _ in range(MAX_HEAD_BYTES_TOGETHER // len(large) + 3)]
        for one in half:
            with suppress(ConnectionError):
                one.sendall(large)
        with selectors.DefaultSelector() as answered:
            for one in half:
                answered.register(one, selectors.EVENT_READ)
            assert 1 <= len(answered.select(5)) < len(half) / 2
        assert http.json("GET", "/healthz", key=None)["status"] == "ok"
    deadline = time.monotonic() + 60
    while http.request("GET", f"/?{'a' * 1_000_000}", key=None).status != 200:
        assert time.monotonic() < deadline, "what was held was not given back"


def test_a_head_that_trickles_in_ends_the_connection_too(hasty: Http) -> None:
    with connect(hasty, HALF_HEAD) as connection:
        for number in range(100):
            try:
                connection.sendall(f"X-{number}: 1\r\n".encode())
            except OSError:
                break
            time.sleep(0.1)
        assert number < 99


def test_a_body_that_stands_still_or_trickles_ends_the_connection_and_stores_nothing(hasty: Http) -> None:
    before = hasty.query("count", "purchases")
    with connect(hasty, half_body(hasty)) as still, connect(hasty, half_body(hasty)) as trickle:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                trickle.sendall(b" ")
            except OSError:
                break
            time.sleep(0.05)
        assert time.monotonic() < deadline
        assert rest(still) == b""
    assert hasty.query("count", "purchases") == before


def test_a_slow_but_steady_body_is_taken(hasty: Http) -> None:
    body = json.dumps({"text": "x" * 20_000}).encode()
    head = (
        f"POST {hasty.v3}/events/steady HTTP/1.1\r\nHost: x\r\nAuthorization: {hasty.endpoint.write_key}\r\nConnection: close\r\n"
    )
    with connect(hasty, head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode()) as connection:
        for start in range(0, len(body), 1000):
            connection.sendall(body[start : start + 1000])
            time.sleep(0.25)
        assert rest(connection).startswith(b"HTTP/1.1 201 ")


def test_between_two_requests_a_connection_stays_open_and_owes_no_head(hasty: Http) -> None:
    healthy = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connect(hasty, healthy) as connection, connect(hasty, healthy + HALF_HEAD) as greedy:
        for one in (connection, greedy):
            answer = b""
            while not answer.endswith(b"}"):
                answer += one.recv(65536)
        time.sleep(6)  # the service waits one second for a head; proxies and pollers leave connections idle for longer than 5
        connection.sendall(healthy)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert rest(greedy).startswith(b"HTTP/1.1 408 ")
        connection.sendall(HALF_HEAD)
        assert b"HTTP/1.1 408 " in rest(connection)


@contextmanager
def large_answer(http: Http) -> Iterator[socket.socket]:
    """A connection on which 8 MB of JSON are on their way."""
    http.add("large", *[{"text": "x" * 100_000} for _ in range(80)])
    query = f"GET {http.v3}/queries/extraction?event_collection=large&latest=80 HTTP/1.1\r\nHost: x\r\n"
    url = urlsplit(http.endpoint.base_url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.connect((url.hostname, url.port))
        connection.sendall(f"{query}Authorization: {http.endpoint.read_key}\r\n\r\n".encode())
        connection.settimeout(20)
        yield connection


def test_a_reader_that_reads_nothing_is_let_go(hasty: Http) -> None:
    with large_answer(hasty) as connection:
        time.sleep(3)  # the service waits one second for a reader
        assert len(rest(connection)) < 8_000_000


def test_a_slow_but_steady_reader_gets_the_whole_answer(hasty: Http) -> None:
    with large_answer(hasty) as connection:
        received, began = 0, time.monotonic()
        while received < 8_000_000 and (part := connection.recv(65536)):
            received += len(part)
            time.sleep(max(0.0, began + received / 2_000_000 - time.monotonic()))
        assert received >= 8_000_000
        assert time.monotonic() - began > 3  # the service waits one second for a reader


@pytest.mark.parametrize("kind", ["silent", "half a head", "half a body", "idle"])
def test_at_the_bound_a_working_client_takes_the_place_of_one_that_asks_nothing(data: Path, kind: str) -> None:
    with configured(data, max_connections=20) as service, ExitStack() as stack:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        idle = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        sent = {"silent": b"", "half a head": HALF_HEAD, "half a body": half_body(http), "idle": idle}[kind]
        opened = []
        for _ in range(60):
            opened.append(stack.enter_context(connect(http, sent)))
            if kind == "idle":
                assert opened[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
            elif kind == "half a body":
                # Answered after what was sent before it was read; of those that come in one rush the newest give way to each other.
                assert Http(service.endpoint).json("GET", "/healthz", key=None)["status"] == "ok"
        assert Http(service.endpoint).query("count", "purchases") == 1
        assert len(list(Path(f"/proc/{service.pid}/fd").iterdir())) < 60
        # The first ones went; the newest still have a place.
        opened[0].settimeout(10)
        rest(opened[0])


def test_a_request_that_came_together_with_the_one_before_it_keeps_its_place(data: Path) -> None:
    healthy = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with configured(data, max_connections=8) as service, ExitStack() as stack:
        http = Http(service.endpoint)
        both = stack.enter_context(connect(http, healthy + half_body(http)))
        first = b""
        while not first.endswith(b"}"):  # head and body may come apart
            first += both.recv(65536)
        assert first.startswith(b"HTTP/1.1 200 ")
        for _ in range(8):  # the last one takes the place of one that is idle
            assert stack.enter_context(connect(http, healthy)).recv(65536).startswith(b"HTTP/1.1 200 ")
        both.sendall(b"1}".rjust(994))
        assert both.recv(65536).startswith(b"HTTP/1.1 201 ")


class Fake:
    """A connection that is being answered; only the order of places is of interest here."""

    def __init__(self, address: str, sends: bool = False) -> None:
        self.address, self.sends, self.aborted = address, sends, False
        self.unread_since: float | None = None

    def still_sends(self) -> bool:
        return self.sends

    def abort(self) -> None:
        self.aborted = True

    def look(self, now: float) -> None:
        if self.sends:
            raise IndexError("a connection in a state that nobody thought of")
        self.aborted = True


def test_a_connection_that_fails_when_it_is_looked_at_is_closed_and_the_others_are_looked_at() -> None:
    places = Connections(most=4, most_per_address=4)
    broken, other = Fake("a", sends=True), Fake("a")
    assert places.admit(broken)
    assert places.admit(other)
    places.look()
    assert (broken.aborted, other.aborted) == (True, True)


@dataclass
class Unread:
    """A connection whose client takes its answer slowly, or has taken it."""

    unread_since: float | None
    bytes: int
    address: str = "a"
    aborted: bool = False

    def unread_bytes(self) -> int:
        return 0 if self.aborted else self.bytes

    def abort(self) -> None:
        self.aborted = True

    def look(self, now: float) -> None:
        pass

    __hash__ = object.__hash__


def test_unread_answers_are_bounded_together_and_the_slowest_reader_goes_first() -> None:
    places = Connections(most=9, most_per_address=9)
    third = MAX_UNREAD_BYTES // 3
    readers = [Unread(2.0, third), Unread(1.0, third), Unread(None, third), Unread(3.0, third)]
    for one in readers:
        assert places.admit(one)  # type: ignore[arg-type]
    places.look()
    assert [one.aborted for one in readers] == [False] * 4
    readers.append(Unread(4.0, third))
    assert places.admit(readers[-1])  # type: ignore[arg-type]
    places.look()
    assert [one.aborted for one in readers] == [False, True, False, False, False]


def test_a_request_that_a_shutdown_cuts_off_is_told_to_come_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keen_pipeline.service.http.server.serve.SHUTDOWN_SECONDS", 3)
    endless, begun = "SELECT count(*) FROM range(100000000000000) a(x) WHERE hash(x) = 1", threading.Event()
    monkeypatch.setattr(queries, "count", lambda cursor, _: (begun.set(), cursor.execute(endless))[1])
    query = f"GET /3.0/projects/{service.credentials.project_id}/queries/count?event_collection=purchases HTTP/1.1\r\nHost: x\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _Server(service, "http://127.0.0.1", Connections(10, 10))
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        with socket.create_connection(listener.getsockname(), timeout=30) as connection:
            connection.sendall(f"{query}Authorization: {service.credentials.read_key}\r\n\r\n".encode())
            assert begun.wait(30)
            server.should_exit = True
            answer = rest(connection)
        thread.join()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"shutting down" in answer


def test_an_idle_service_whose_database_is_away_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.mkdir()
    config = ServiceConfig(data=data, idle_exit_seconds=1)
    service = Service(config, "http://127.0.0.1")
    try:
        service.last_request = time.monotonic() - 5
        server = _Server(service, "http://127.0.0.1", Connections(8, 8))
        assert server._is_idle()
        monkeypatch.setattr(service.records, "count_waiting", Mock(side_effect=ServiceUnavailableError("locked")))
        assert not server._is_idle()
    finally:
        service.close()


def test_a_body_that_we_do_not_read_is_none_that_stands_still() -> None:
    one = BoundedProtocol.__new__(BoundedProtocol)
    one._stalled_seconds, one._body_since, one._body_bytes = 1.0, None, 0
    one.flow, one.transport = Mock(read_paused=True), Mock()
    for now in range(30):
        one._look_at_body(float(now))
    one.flow.read_paused = False
    one._look_at_body(30.0)
    assert not one.transport.abort.called
    one._look_at_body(33.0)
    assert one.transport.abort.called


def test_who_gives_way_to_whom() -> None:
    places = Connections(most=4, most_per_address=3)
    asking, sending, idle = Fake("a"), Fake("a", sends=True), Fake("a")
    for one in (asking, sending, idle):
        assert places.admit(one)
    places.asks(asking)
    places.asks(sending)
    places.asks(idle)
    places.answered(idle)
    first, second, third = Fake("a"), Fake("a"), Fake("a")
    assert places.admit(first)
    assert [c.aborted for c in (asking, sending, idle)] == [False, False, True]
    places.asks(first)
    assert places.admit(second)
    assert [c.aborted for c in (asking, sending, first)] == [False, True, False]
    places.asks(second)
    assert not places.admit(third)
    assert len(places) == 3
    other, fifth = Fake("b"), Fake("c")
    assert places.admit(other)
    assert not places.admit(fifth)  # of the crowded address all are being answered
    places.leave(asking)
    places.leave(asking)
    assert (len(places), places.admit(fifth), len(places)) == (3, True, 4)


@pytest.mark.parametrize(("grace", "goes"), [(0.0, "silent"), (60.0, "idle")])
def test_one_that_has_just_come_is_not_taken_for_a_silent_one(grace: float, goes: str) -> None:
    places = Connections(most=2, most_per_address=2, grace=grace)
    idle, silent = Fake("a"), Fake("a")
    assert places.admit(idle)
    places.asks(idle)
    places.answered(idle)
    assert places.admit(silent)
    assert places.admit(Fake("a"))
    assert {"silent": silent.aborted, "idle": idle.aborted} == {"silent": goes == "silent", "idle": goes == "idle"}


def test_the_private_names_of_uvicorn_that_the_protocol_stands_on_are_there() -> None:
    # Raise the bound in pyproject.toml together with this line, after a look at what changed in these names.
    assert version("uvicorn").startswith("0.54.")
    names = ("connection_made", "connection_lost", "data_received", "on_response_complete", "send_400_response", "pause_writing")
    assert [name for name in names if not hasattr(H11Protocol, name)] == []
    assert [
        name for name in ("capture_signals", "startup", "shutdown", "on_tick", "handle_exit") if not hasattr(uvicorn.Server, name)
    ] == []


@pytest.mark.slow
def test_two_thousand_silent_and_half_open_connections_beside_a_working_client(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service, ExitStack() as stack:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        for number in range(2000):
            stack.enter_context(connect(http, (b"", HALF_HEAD, half_body(http))[number % 3]))
        for number in range(60):
            http.add("purchases", {"a": number})
            assert Http(service.endpoint).query("count", "purchases") == number + 2
            time.sleep(1)
        assert len(list(Path(f"/proc/{service.pid}/fd").iterdir())) < 1100
