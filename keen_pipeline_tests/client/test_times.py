"""Whatever comes, and however slowly: every call is over in time, and says which time limit it was."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keen_pipeline.client import KeenClient
from keen_pipeline.errors import RetryableError, ServiceUnavailableError, TransferError, UnreachableError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline_tests.client.calls import QuickClock
from keen_pipeline_tests.servers import faults, tls, wire_faults
from keen_pipeline_tests.servers.faults import FaultServer, document

pytestmark = pytest.mark.timeout(20)

CALLS: dict[str, Callable[[KeenClient], object]] = {
    "get": lambda made: made.list_extractions("purchases"),
    "post": lambda made: made.add_events({"purchases": [{"a": 1}]}),
    "results": lambda made: made.open_results(SecretUrl(f"{made.base_url}/results/f")),
}


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    tls.trust(tmp_path, monkeypatch)
    with FaultServer(tls=tls.server_context() if request.param else None) as running:
        yield running


def client(url: str, **limits: float) -> KeenClient:
    keys = {"read_key": "read-key-77aa", "write_key": "write-key-88bb"}
    return KeenClient(url, "P1", **keys, **({"total_timeout": 0.4, "read_timeout": 5} | limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fault",
    [wire_faults.head_drip(0.02), wire_faults.endless_continue(), wire_faults.endless_early_hints()],
    ids=["dripped head", "endless 100", "endless 103"],
)
@pytest.mark.parametrize("name", CALLS)
def test_head_without_an_end_is_over_in_time(name: str, fault: faults.Behaviour, server: FaultServer) -> None:
    server.api = server.results = [fault]
    with pytest.raises(RetryableError, match=r"time limit of 0\.[45] s"):
        CALLS[name](client(server.url, transfer_timeout=0.6, read_timeout=5 if name != "results" else 0.5))
    assert len(server.requests) == 1


def test_body_that_the_time_limit_cuts_is_no_end(server: FaultServer) -> None:
    """Without a length only the socket knows that this was no end of the file."""
    server.body = b"a,b\n" + b"1,2\n" * 100_000

    def answer(to: faults.Exchange) -> None:
        to.head("200 OK")
        for at in range(0, len(to.body), 4000):
            to.sock.sendall(to.body[at : at + 4000])
            if to.server.ending.wait(0.02):
                return

    server.results = [answer]
    buffer = memoryview(bytearray(1 << 20))
    with client(server.url, transfer_timeout=0.3).open_results(SecretUrl(server.results_url)) as stream:
        got: list[int] = []
        with pytest.raises(TransferError, match=r"time limit of 0\.3 s"):
            got.extend(iter(lambda: stream.readinto(buffer), 0))
    assert 4000 <= sum(got) < len(server.body)


def test_wait_for_one_byte_has_its_own_limit(server: FaultServer) -> None:
    server.body = b"a,b\n" + b"1,2\n" * 1000
    server.results, server.api = [faults.stall(2000)], [faults.stall_before_headers()]
    buffer = memoryview(bytearray(1 << 20))
    made = client(server.url, read_timeout=0.2, total_timeout=0.5)
    with made.open_results(SecretUrl(server.results_url)) as stream:
        assert stream.readinto(buffer)
        with pytest.raises(TransferError, match="read time-out"):
            list(iter(lambda: stream.readinto(buffer), 0))
    with pytest.raises(ServiceUnavailableError, match="read time-out"):
        made.add_events({"purchases": [{"a": 1}]})


def test_transfer_may_take_longer_than_a_call(server: FaultServer) -> None:
    server.body = b"a,b\n" + b"1,2\n" * 10_000
    server.results = [wire_faults.trickle(4000, 0.05)]
    buffer = memoryview(bytearray(1 << 20))
    with client(server.url, total_timeout=0.3, read_timeout=0.3).open_results(SecretUrl(server.results_url)) as stream:
        assert sum(iter(lambda: stream.readinto(buffer), 0)) == len(server.body)


@pytest.mark.parametrize("name", CALLS)
def test_whole_time_is_over_within_a_wait_for_one_byte(name: str, server: FaultServer) -> None:
    server.api = server.results = [faults.stall_before_headers()]
    with pytest.raises(RetryableError, match=r"time limit of 0\.2 s"):
        CALLS[name](client(server.url, read_timeout=600, total_timeout=0.2, transfer_timeout=0.2))


def test_tls_that_is_cut_without_its_closing_alert_is_no_end(server: FaultServer) -> None:
    server.body = b"a,b\n" + b"1,2\n" * 1000
    server.results = [faults.undelimited(2000), faults.undelimited()]
    buffer = memoryview(bytearray(1 << 20))
    made = client(server.url)

    def read() -> int:
        with made.open_results(SecretUrl(server.results_url)) as stream:
            return sum(iter(lambda: stream.readinto(buffer), 0))

    if server.tls is not None:
        with pytest.raises(TransferError, match="broke in the middle"):
            read()
    else:
        assert read() == 2000  # nobody can tell
    assert read() == len(server.body)


def test_service_that_takes_no_bytes_is_given_up(server: FaultServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        made = client(f"http://127.0.0.1:{deaf.getsockname()[1]}", total_timeout=0.4)
        with pytest.raises(RetryableError, match=r"time limit of 0\.4 s"):
            made.add_events({"purchases": [{"a": "x" * 9_000_000}]})


def test_service_that_says_nothing_in_its_handshake_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        for call in (CALLS["get"], CALLS["results"]):
            with pytest.raises(UnreachableError, match="no connection to 127"):
                call(client(url, connect_timeout=0.2, total_timeout=0.3))


def test_name_that_nobody_resolves_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [silence.wait(60)][1:])
    try:
        for call in (CALLS["post"], CALLS["results"]):
            with pytest.raises(UnreachableError, match=r"keen\.example can't be resolved within 0\.\d* s"):
                call(client("https://keen.example", connect_timeout=0.2, total_timeout=0.3))
    finally:
        silence.set()


def test_redirects_have_one_time_together() -> None:
    def slow(to: faults.Exchange) -> None:
        to.server.ending.wait(0.15)
        faults.redirect("/results/again")(to)

    with FaultServer(results=[slow]) as server, pytest.raises(RetryableError, match=r"time limit of 0\.4 s"):
        CALLS["results"](client(server.url, read_timeout=0.4))


def test_kept_connections_serve_many_threads_and_are_left_when_the_service_closes_them(server: FaultServer) -> None:
    """A FaultServer closes after each answer, so that every kept connection is a dead one."""
    server.api = [faults.status(200, b"[]", Connection="keep-alive")]
    made = client(server.url, total_timeout=10)
    failures: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(10):
                made.list_extractions("purchases")
        except Exception as error:  # shown below
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    made.close()
    server.api = [document([])]
    assert made.list_extractions("purchases") == {}


def take_request(sock: socket.socket) -> bool:
    """Whether one came whole before the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return False
        data += piece
    return True


def test_kept_connection_that_the_service_has_closed_is_not_used() -> None:
    closed, clock = threading.Event(), QuickClock()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                with sock:
                    if take_request(sock):
                        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
                closed.set()

        threading.Thread(target=serve, daemon=True).start()
        with KeenClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "P1", read_key="read-key-77aa", clock=clock) as made:
            made.list_extractions("purchases")
            closed.wait(10)
            made.list_extractions("purchases")
    assert clock.slept == []  # nothing was tried again


def test_connection_is_kept_between_two_calls() -> None:
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                while take_request(sock):
                    taken.append(1)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

        threading.Thread(target=serve, daemon=True).start()
        with client(f"http://127.0.0.1:{listener.getsockname()[1]}", total_timeout=5) as made:
            for _ in range(3):
                made.list_extractions("purchases")
    assert len(taken) == 3


def test_a_budget_is_waited_for_as_long_as_leaves_time_for_an_answer(server: FaultServer) -> None:
    waits: list[float] = []
    limiter: Any = SimpleNamespace(acquire=lambda *, timeout: waits.append(timeout))
    made = KeenClient(server.url, "P1", read_key="r1", limiter=limiter, read_timeout=4, total_timeout=20)
    server.api = [document({"result": 1})]
    made.count("purchases", None)
    assert [round(wait) for wait in waits] == [16]
