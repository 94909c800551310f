"""SFTP servers that fall silent, lose bytes or can't be known: a named error in time, and the old file."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paramiko
import pytest

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError, TransferError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages import sftp as sftp_storage
from keen_pipeline_tests.contract.storages.places import NOW, TARGET, outcome, publish
from keen_pipeline_tests.servers import sftp as sftp_server
from keen_pipeline_tests.servers.proxy import tcp_proxy
from keen_pipeline_tests.servers.sftp import USER, CountingLogin, SftpServer, running_sftp

OLD, NEW = b"old", b"n" * 10_000_000


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "cut"])
@pytest.mark.parametrize("passed", [0, 30, 1200, 1900, 2100, 2600, 3000, 4000])
def test_sftp_server_that_stops_anywhere_ends_in_a_named_error(sftp: SftpServer, tmp_path: Path, passed: int, silent: bool) -> None:
    folder = sftp.folder / tmp_path.name
    publish(FileDestination(f"{sftp.uri}/{tmp_path.name}", transport=sftp.transport), OLD)
    with tcp_proxy(sftp.port, passed, silent=silent) as port:
        known = tmp_path / "known"
        known.write_text(sftp.known_hosts.read_text().replace(str(sftp.port), str(port)))
        options = {"known_hosts": str(known), "timeout_seconds": 1}
        destination = FileDestination(f"sftp://{USER}@127.0.0.1:{port}/{tmp_path.name}", transport=options)
        error = outcome(destination, NEW)
    assert isinstance(error, ServiceUnavailableError)
    assert "destination sftp://" in str(error)
    FileDestination(f"{sftp.uri}/{tmp_path.name}", transport=sftp.transport).remove_leftovers(NOW)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {"2026-01-01.csv": OLD}


@pytest.mark.parametrize("step", ["channel", "subsystem", "version"])
def test_sftp_server_that_opens_no_channel_subsystem_or_version_is_not_waited_for(tmp_path: Path, step: str) -> None:
    with running_sftp(tmp_path, silent_at=step) as server:
        destination = FileDestination(f"{server.uri}/x", transport={**server.transport, "timeout_seconds": 1})
        for call in (lambda: publish(destination, NEW), lambda: destination.open(f"{destination.uri}/{TARGET}")):
            with pytest.raises(ServiceUnavailableError, match="destination sftp://"):
                call()


def test_sftp_server_that_loses_bytes_is_found_out(tmp_path: Path) -> None:
    with running_sftp(tmp_path, loses=True) as server:
        folder = server.folder / "purchases"
        folder.mkdir()
        (folder / "2026-01-01.csv").write_bytes(OLD)
        assert isinstance(outcome(FileDestination(server.uri, transport=server.transport), NEW), ServiceUnavailableError)
        assert [path.read_bytes() for path in folder.iterdir()] == [OLD]


def test_sftp_server_has_a_connection_for_every_few_readers_at_once(sftp: SftpServer) -> None:
    destination = FileDestination(f"{sftp.uri}/many", transport=sftp.transport)
    publish(destination, OLD)
    with ExitStack() as stack:
        readers = [stack.enter_context(destination.open(f"{destination.uri}/{TARGET}")) for _ in range(12)]
        assert {reader.read(10) for reader in readers} == {OLD}
    destination.probe()
    assert len(destination._storage._connections) == 3  # type: ignore[attr-defined]


def test_sftp_connection_is_kept_alive_and_holds_no_request_back(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_storage, "KEEPALIVE_SECONDS", 0.1)
    destination = FileDestination(f"{sftp.uri}/alive", transport=sftp.transport)
    CountingLogin.asked.clear()
    destination.probe()
    [connection] = destination._storage._connections  # type: ignore[attr-defined]
    assert connection.get_transport().sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    deadline = time.monotonic() + 20
    while "keepalive@lag.net" not in CountingLogin.asked:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def under_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests wait for their answers, each time that one is waited for."""
    found: list[int] = []
    real = paramiko.SFTPClient._read_response

    def counted(self: paramiko.SFTPClient, waitfor: int | None = None) -> Any:
        found.append(len(self._expecting))
        return real(self, waitfor)

    monkeypatch.setattr(paramiko.SFTPClient, "_read_response", counted)
    return found


def test_sftp_file_is_read_with_many_requests_under_way_and_not_with_any_number(sftp: SftpServer, under_way: list[int]) -> None:
    destination = FileDestination(f"{sftp.uri}/far", transport=sftp.transport)
    publish(destination, NEW)
    under_way.clear()
    with destination.open(f"{destination.uri}/{TARGET}") as file:
        assert file.read(len(NEW)) == NEW
    assert max(under_way) == 64


def test_sftp_file_is_written_with_many_requests_under_way(sftp: SftpServer, under_way: list[int]) -> None:
    publish(FileDestination(f"{sftp.uri}/written", transport=sftp.transport), NEW[:200_000])
    assert max(under_way) >= 6  # of seven


@pytest.mark.parametrize("most", [100, 10_000, 2**20])
def test_sftp_server_that_gives_less_than_was_asked_is_asked_for_the_rest(
    sftp: SftpServer, monkeypatch: pytest.MonkeyPatch, under_way: list[int], most: int
) -> None:
    data, wanted = bytes(range(251)) * 1000, min(10 * most, 250_000)
    destination = FileDestination(f"{sftp.uri}/little-{most}", transport=sftp.transport)
    publish(destination, data)
    under_way.clear()
    real = sftp_server.Handle.read
    monkeypatch.setattr(sftp_server.Handle, "read", lambda self, at, length: real(self, at, min(length, most)))
    with destination.open(f"{destination.uri}/{TARGET}") as file:
        assert file.read(wanted) == data[:wanted]
        assert file.seek(-3, 2) == len(data) - 3
        assert file.read() == data[-3:]
    assert max(under_way) <= 64


@pytest.mark.parametrize("answer", [paramiko.SFTP_EOF, paramiko.SFTP_FAILURE, paramiko.SFTP_OK])
def test_sftp_file_that_ends_before_its_length_is_an_error(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    destination = FileDestination(f"{sftp.uri}/short", transport=sftp.transport)
    publish(destination, NEW)
    with destination.open(f"{destination.uri}/{TARGET}") as file:
        assert file.read(10) == NEW[:10]
        monkeypatch.setattr(sftp_server.Handle, "read", lambda *_: answer)
        with pytest.raises(TransferError, match="reading it failed"):
            file.read(len(NEW))


@pytest.mark.parametrize("name", ["known_hosts", "key_file"])
def test_sftp_file_that_can_not_be_used_is_named(sftp: SftpServer, tmp_path: Path, name: str) -> None:
    for path in (tmp_path / "missing", tmp_path):  # a folder is no file either
        options = {**sftp.transport, name: str(path)}
        with pytest.raises(ConfigurationError, match=rf"{path.name}"):
            FileDestination(f"{sftp.uri}/x", transport=options).probe()


def test_sftp_name_that_is_no_utf8_ends_no_listing(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = FileDestination(f"{sftp.uri}/latin", transport=sftp.transport)
    publish(destination, OLD)
    left = sftp.folder / "latin/purchases/.2026-01-02.csv.12345678-0123456789abcdef.landing"
    left.write_bytes(b"a")
    real = sftp_server.Files.list_folder

    def list_folder(self: sftp_server.Files, path: str) -> Any:
        others = [paramiko.SFTPAttributes.from_stat(found.stat(), "x") for found in (sftp.folder, left)]
        for other in others:
            other.filename = b"caf\xe9"  # type: ignore[assignment]
        return [*others, *real(self, path)]

    monkeypatch.setattr(sftp_server.Files, "list_folder", list_folder)
    assert list(destination.files("purchases")) == [("purchases/2026-01-01.csv", len(OLD))]
    assert destination.remove_leftovers(NOW) == [f"{destination.uri}/purchases/{left.name}"]


def test_sftp_calls_in_a_row_share_a_channel_until_it_is_closed(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[paramiko.Channel] = []
    real = paramiko.Transport.open_session

    def counted(self: paramiko.Transport, *args: Any, **more: Any) -> paramiko.Channel:
        opened.append(real(self, *args, **more))
        return opened[-1]

    monkeypatch.setattr(paramiko.Transport, "open_session", counted)
    destination = FileDestination(f"{sftp.uri}/shared", transport=sftp.transport)
    publish(destination, OLD)
    for _ in range(5):
        assert destination.exists(destination.uri_of(TARGET)) == len(OLD)
        assert list(destination.files("purchases")) == [(TARGET, len(OLD))]
        assert destination.read(TARGET, 100) == OLD
        with pytest.raises(FileNotFoundError):
            destination.read("purchases/none.csv", 100)
    assert len(opened) == 1
    opened[0].close()  # as a server may that has waited long enough
    assert destination.exists(destination.uri_of(TARGET)) == len(OLD)
    assert len(opened) == 2


def test_sftp_folder_that_may_not_be_listed_stops_no_clean_up(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sftp.folder / "closed"
    (root / "lost+found").mkdir(parents=True)
    left = root / "purchases" / ".2026-01-01.csv.12345678-0123456789abcdef.landing"
    left.parent.mkdir()
    left.write_bytes(b"a")
    real = sftp_server.Files.list_folder

    def list_folder(self: sftp_server.Files, path: str) -> Any:
        return paramiko.SFTP_PERMISSION_DENIED if path.endswith("lost+found") else real(self, path)

    monkeypatch.setattr(sftp_server.Files, "list_folder", list_folder)
    destination = FileDestination(f"{sftp.uri}/closed", transport=sftp.transport)
    assert destination.remove_leftovers(NOW) == [f"{destination.uri}/purchases/{left.name}"]
    assert not left.exists()
    with pytest.raises(ConfigurationError, match="may not read or write there"):
        list(destination.files("lost+found"))
