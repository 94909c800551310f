"""A real SSH server with SFTP on loopback, for the time of a `with` block; it shows one folder as `/`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import paramiko

USER, PASSWORD = "lander", "sftp-password-for-tests"


@dataclass(frozen=True)
class SftpServer:
    """Where it listens, the folder it shows, and a file with its host key."""

    port: int
    folder: Path
    known_hosts: Path

    @property
    def uri(self) -> str:
        return f"sftp://{USER}@127.0.0.1:{self.port}"

    @property
    def transport(self) -> dict[str, Any]:
        return {"known_hosts": str(self.known_hosts)}


class _Login(paramiko.ServerInterface):
    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if (username, password) == (USER, PASSWORD) else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def get_allowed_auths(self, username: str) -> str:
        return "password"


class _Silent(_Login):
    """Says nothing more from one step of opening a channel on: `channel`, `subsystem` or `version`."""

    def __init__(self, step: str, over: threading.Event) -> None:
        self._step, self._over = step, over

    def _wait(self, step: str) -> None:
        if step == self._step:
            self._over.wait(60)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self._wait("channel")
        return super().check_channel_request(kind, chanid)

    def check_channel_subsystem_request(self, channel: Any, name: str) -> bool:
        self._wait("subsystem")
        return self._step == "version" or super().check_channel_subsystem_request(channel, name)


class CountingLogin(_Login):
    """Notes what is asked about the connection as a whole, such as whether it lives. Ten channels are all that it gives."""

    asked: ClassVar[list[str]] = []

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if len(self._transport._channels.values()) >= 10:  # as OpenSSH, unless its MaxSessions says otherwise
            return int(paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)
        return super().check_channel_request(kind, chanid)

    def check_global_request(self, kind: str, msg: Any) -> bool:
        self.asked.append(kind)
        return False


class Handle(paramiko.SFTPHandle):
    """An open file."""

    def stat(self) -> Any:
        return _answer(lambda: paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno())))


class Files(paramiko.SFTPServerInterface):
    def __init__(self, server: paramiko.ServerInterface, folder: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(server, *args, **kwargs)
        self._folder = folder

    def _real(self, path: str) -> Path:
        return self._folder / self.canonicalize(path).lstrip("/")

    def stat(self, path: str) -> Any:
        return _answer(lambda: paramiko.SFTPAttributes.from_stat(self._real(path).stat()))

    lstat = stat

    def list_folder(self, path: str) -> Any:
        return _answer(lambda: [paramiko.SFTPAttributes.from_stat(p.lstat(), p.name) for p in self._real(path).iterdir()])

    def open(self, path: str, flags: int, attr: Any) -> Any:
        def opened() -> paramiko.SFTPHandle:
            handle = Handle(flags)
            writing = bool(flags & (os.O_WRONLY | os.O_RDWR))
            file = os.fdopen(os.open(self._real(path), flags, 0o644), "r+b" if flags & os.O_RDWR else "wb" if writing else "rb")
            handle.filename, handle.readfile, handle.writefile = str(path), file, file
            return handle

        return _answer(opened)

    def remove(self, path: str) -> int:
        return _status(lambda: self._real(path).unlink())

    def mkdir(self, path: str, attr: Any) -> int:
        return _status(lambda: self._real(path).mkdir())

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        return _status(lambda: self._real(oldpath).replace(self._real(newpath)))


class _FilesWithoutRename(Files):
    def posix_rename(self, oldpath: str, newpath: str) -> int:
        return int(paramiko.SFTP_OP_UNSUPPORTED)


class _FilesThatLose(Files):
    """The last byte of what is staged."""

    def stat(self, path: str) -> Any:
        found = super().stat(path)
        if path.endswith(".landing") and not isinstance(found, int):
            found.st_size -= 1
        return found

    lstat = stat


def _answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno or 0)


def _status(call: Callable[[], Any]) -> int:
    answer = _answer(lambda: call() and None)
    return int(paramiko.SFTP_OK if answer is None else answer)


@contextmanager
def running_sftp(folder: Path, *, replaces: bool = True, loses: bool = False, silent_at: str = "") -> Iterator[SftpServer]:
    """Serve `folder`; `replaces`: whether the server knows the rename that replaces a file. `loses`: bytes. `silent_at`: a step."""
    over = threading.Event()
    files = _FilesThatLose if loses else Files if replaces else _FilesWithoutRename
    shown = folder / "shown"
    shown.mkdir(parents=True)
    key = paramiko.ECDSAKey.generate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
        connections: list[paramiko.Transport] = []

        def start(transport: paramiko.Transport) -> None:
            try:
                transport.start_server(server=_Silent(silent_at, over) if silent_at else CountingLogin(transport))
            except (paramiko.SSHException, EOFError, OSError):
                transport.close()

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as OpenSSH: else each answer waits 40 ms
                transport = paramiko.Transport(sock)
                connections.append(transport)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, files, shown)
                threading.Thread(target=start, args=(transport,), daemon=True).start()  # who is silent keeps nobody waiting

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield SftpServer(port, shown, known_hosts)
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for connection in connections:
                connection.close()
