"""Files of an SFTP server: written beside their place, their size compared, renamed over the old one in one step.

The server's host key is known, or the server is refused. Every wait ends after the option `timeout_seconds`.
"""

from __future__ import annotations

import errno
import io
import logging
import posixpath
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import paramiko
from paramiko.sftp import int64

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.storages.errors import for_a_person, unavailable
from keen_pipeline.landing.storages.local import is_staged, staged_name
from keen_pipeline.landing.storages.remote import StoredReader, exactly
from keen_pipeline.landing.storages.storage import Fence, Leftover, Options, Storage, no_fence
from keen_pipeline.settings import SftpSecrets

KEEPALIVE_SECONDS = 15
CHANNELS = 5
"""Of one connection: OpenSSH allows ten, and takes a moment to forget one that was closed."""
_PIECE_BYTES = 32 * 1024
"""Written at once: what paramiko sends in one request, so that of a whole file only the last one is waited for."""
_WINDOW_BYTES = 2 * 1024 * 1024
"""Asked for at once when a file is read: as much as may be under way on a channel of paramiko's."""
_ANSWER_BYTES, _SHORTEST_ANSWER_BYTES = 32 * 1024, 4 * 1024
"""What servers give in one answer, and the least that is asked for when one gives less."""
# The last four: what paramiko makes of an answer that isn't SFTP.
_FAILURES = (paramiko.SSHException, OSError, EOFError, paramiko.SFTPError, struct.error, ValueError, IndexError)
_log = logging.getLogger(__name__)


class SftpStorage(Storage):
    """A folder of an SFTP server. Connections are shared by all threads, made when they are needed and again when they broke."""

    _failures = _FAILURES

    def __init__(self, root: str, options: Options) -> None:
        super().__init__(root, options)
        self._seconds = options.get("timeout_seconds", 30.0)
        self._lock = threading.Lock()
        self._connections: dict[paramiko.SSHClient, list[paramiko.Channel]] = {}
        self._idle: list[paramiko.SFTPClient] = []
        try:
            host, _ = urlsplit(root).hostname, urlsplit(root).port
        except ValueError:
            raise for_a_person(root, "its port isn't a number between 0 and 65535") from None
        if not host:
            raise for_a_person(root, "it names no host", "Write sftp://user@host/folder.")
        self._folder = "/" + unquote(urlsplit(root).path).strip("/")

    def publish(self, stage: BinaryIO, target: str, *, fence: Fence = no_fence) -> None:
        with self._session(target) as files:
            self._put(files, stage, self._path(target), fence)

    def size(self, target: str) -> int | None:
        with self._session(target) as files:
            try:
                return int(files.stat(self._path(target)).st_size or 0)
            except FileNotFoundError:
                return None

    def open(self, target: str) -> BinaryIO:
        many = None
        with self._session(target, kept=False) as files, suppress(FileNotFoundError):
            file = files.open(self._path(target), "rb")
            size, many = int(file.stat().st_size or 0), _ManyRequests(files, file)
        if many is None:
            self._keep(files)
            raise FileNotFoundError(target)

        def end() -> None:
            if many.is_waiting:
                files.close()
            else:
                file.close()
                self._keep(files)

        return cast("BinaryIO", io.BufferedReader(StoredReader(target, size, many, _FAILURES, end), _WINDOW_BYTES))

    def remove(self, target: str) -> None:
        with self._session(target) as files, suppress(FileNotFoundError):
            files.remove(self._path(target))

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        with self._session(folder) as files:
            for path, found in _walk(files, self._path(folder)):
                if not is_staged(posixpath.basename(path)):
                    # Below the folder as the caller writes it: of a path there are several URIs.
                    yield folder + path.removeprefix(self._path(folder)), int(found.st_size or 0)

    def _leftovers(self) -> Iterator[Leftover]:
        """Staged files."""
        with self._session(self._root) as files:
            # What this user may not list, such as lost+found, has nothing of ours.
            for path, found in _walk(files, self._folder, (PermissionError,)):
                if is_staged(posixpath.basename(path)):
                    uri = self._root + path.removeprefix(self._folder.rstrip("/"))
                    yield uri, float(found.st_mtime or 0), partial(files.remove, path)

    def _path(self, uri: str) -> str:
        below = uri.removeprefix(self._root).strip("/").split("/")
        return posixpath.join(self._folder, *map(_name, below))

    def _put(self, files: paramiko.SFTPClient, stage: BinaryIO, path: str, fence: Fence) -> None:
        folder, name = posixpath.split(path)
        _make_folders(files, folder)
        staged, size = f"{folder}/{staged_name(name)}", stage.seek(0, 2)
        try:
            with files.open(staged, "wxb") as file:
                for start in range(0, size, _PIECE_BYTES):
                    # The last write waits for the answers to all of them; without that, one that failed would go unnoticed.
                    file.set_pipelined(start + _PIECE_BYTES < size)
                    file.write(exactly(stage.fileno(), start, min(_PIECE_BYTES, size - start)))
            if files.stat(staged).st_size != size:
                raise OSError(errno.EIO, "the server has another number of bytes than was sent")  # noqa: TRY301 - it is removed
            fence()
            files.posix_rename(staged, path)
        except BaseException:
            _log.info("writing %s is aborted", path)
            with suppress(*_FAILURES):  # not there yet, or the connection is gone: `remove_leftovers` finds it
                files.remove(staged)
            raise

    @contextmanager
    def _session(self, target: str, *, kept: bool = True) -> Iterator[paramiko.SFTPClient]:
        """A channel for one call, closed if it fails; `kept`: for the next one."""
        with self._translated(target):
            files = self._channel()
            try:
                yield files
            except BaseException:
                files.close()
                raise
            if kept:
                self._keep(files)

    def _keep(self, files: paramiko.SFTPClient) -> None:
        if len(self._idle) < CHANNELS:
            self._idle.append(files)
        else:
            files.close()

    def _channel(self) -> paramiko.SFTPClient:
        """A channel whose every wait ends. paramiko's own opener waits for the subsystem without limit."""
        with suppress(IndexError):  # there is none, or another thread was quicker
            while (idle := self._idle.pop()).sock.closed:
                pass
            return idle
        seconds = self._seconds
        channel = self._open_channel()
        watchdog = threading.Timer(seconds, channel.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            channel.settimeout(seconds)
            channel.invoke_subsystem("sftp")
            return _Client(channel)
        except BaseException:
            channel.close()
            raise
        finally:
            watchdog.cancel()

    def _open_channel(self) -> paramiko.Channel:
        """By a connection that has room for it, else by a new one."""
        with self._lock:
            for connection, channels in list(self._connections.items()):
                if (transport := connection.get_transport()) is None or not transport.is_active():
                    connection.close()
                    del self._connections[connection]
                    continue
                channels[:] = [channel for channel in channels if not channel.closed]
                if len(channels) < CHANNELS:
                    break
            else:
                connection, channels = self._connect(), []
                self._connections[connection] = channels
            transport = cast("paramiko.Transport", connection.get_transport())
            channels.append(transport.open_session(timeout=self._seconds))
            return channels[-1]

    def _connect(self) -> paramiko.SSHClient:
        place, options, opens = urlsplit(self._root), self._options, SftpSecrets.from_environment()
        client = paramiko.SSHClient()
        known = Path(options.get("known_hosts") or "~/.ssh/known_hosts").expanduser()
        try:
            client.load_host_keys(str(known))
        except FileNotFoundError:
            scan = f"`ssh-keyscan -p {place.port or 22} {place.hostname}`"
            mend = f"Make one by {scan}, and compare the key with the one the server's owner gives you."
            raise for_a_person(self._root, f"there is no file of known hosts {known}", mend) from None
        except (OSError, paramiko.SSHException, ValueError) as error:
            raise for_a_person(self._root, f"the file of known hosts {known} can't be read ({type(error).__name__})") from None
        key = Path(options["key_file"]).expanduser() if "key_file" in options else None
        if key is not None and not key.is_file():
            raise for_a_person(self._root, f"there is no file {key}, which the option key_file names")
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            client.connect(
                cast("str", place.hostname),
                place.port or 22,
                username=unquote(place.username) if place.username else None,
                password=opens.password,
                passphrase=opens.key_passphrase,
                key_filename=str(key) if key else None,
                timeout=self._seconds,
                banner_timeout=self._seconds,
                auth_timeout=self._seconds,
                channel_timeout=self._seconds,
            )
            transport = cast("paramiko.Transport", client.get_transport())
            transport.set_keepalive(KEEPALIVE_SECONDS)
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or small requests wait 40 ms
        except BaseException:
            client.close()
            raise
        return client

    def _error(self, error: Exception, target: str) -> KeenPipelineError:
        if isinstance(error, paramiko.BadHostKeyException):
            why = "the server shows another key than the file of known hosts has"
            return for_a_person(target, why, "It is a new server, or a stranger.")
        if isinstance(error, (paramiko.AuthenticationException, paramiko.PasswordRequiredException)):
            mend = "Check KEEN_PIPELINE_SFTP_PASSWORD or the option key_file."
            return for_a_person(target, "the server refuses this user", mend)
        if isinstance(error, PermissionError):
            return for_a_person(target, "this user may not read or write there")
        if isinstance(error, paramiko.SSHException):
            if "not found in known_hosts" not in str(error):
                return unavailable(target, error)
            why = "the server is not in the file of known hosts"
            return for_a_person(target, why, "Add its key; its owner can give it to you.")
        if "unsupported" in str(error).lower():
            return for_a_person(target, "the server can't replace a file in one step (posix-rename@openssh.com)")
        if str(error) == "Failure":  # all that the protocol's third version can say
            return unavailable(target, "Failure", "Servers say this when a disk or quota is full, among others.")
        return unavailable(target, error)


class _Client(paramiko.SFTPClient):  # type: ignore[misc] # it has no types
    """One whose lists of a folder don't end at a name that isn't UTF-8."""

    def _request(self, kind: Any, *args: Any) -> Any:
        kind, answer = super()._request(kind, *args)
        if kind == paramiko.sftp.CMD_NAME:
            answer.get_text = lambda: answer.get_string().decode("utf-8", "replace")
        return kind, answer


class _ManyRequests:
    """Reads an open file with many requests under way, so that a server far away is waited for once in a window.

    Not by paramiko's own `prefetch` and `readv`: when an answer comes before the next request has left, or has fewer bytes than
    were asked for, they go back to single requests, and keep what comes besides until the file is closed.
    """

    def __init__(self, files: paramiko.SFTPClient, file: paramiko.SFTPFile) -> None:
        self._files, self._file = files, file
        self._longest = _ANSWER_BYTES
        self._answers: dict[int, bytes] = {}
        self.is_waiting = False  # for answers, or was when one failed

    def __call__(self, start: int, end: int) -> bytes:
        """The bytes from `start` on, maybe fewer. Raises EOFError if the file has become shorter."""
        end = min(end, start + _WINDOW_BYTES)
        lengths, self.is_waiting = {}, True
        for at in range(start, end, self._longest):
            asked = min(self._longest, end - at)
            lengths[self._files._async_request(self, paramiko.sftp.CMD_READ, self._file.handle, int64(at), asked)] = asked
        while len(self._answers) < len(lengths):
            self._files._read_response()
        pieces: list[bytes] = []
        for number, asked in lengths.items():
            pieces.append(self._answers[number][:asked])
            if len(pieces[-1]) < asked:  # what follows belongs elsewhere
                self._longest = max(len(pieces[-1]), _SHORTEST_ANSWER_BYTES)
                break
        self._answers.clear()
        self.is_waiting = False
        data = b"".join(pieces)
        if not data:
            raise EOFError
        return data

    def _async_response(self, kind: int, answer: paramiko.Message, number: int) -> None:
        """Called by paramiko for each answer."""
        if kind != paramiko.sftp.CMD_DATA:
            self._files._convert_status(answer)
        self._answers[number] = answer.get_string()


def _name(part: str) -> str:
    """How a part of a path below the root is called there: unquoted, unless that would make it another path."""
    plain = unquote(part)
    return part if plain in (".", "..") or any(sign in plain for sign in "/\\%") else plain


def _make_folders(files: paramiko.SFTPClient, folder: str) -> None:
    try:
        files.stat(folder)
    except FileNotFoundError:
        _make_folders(files, posixpath.dirname(folder))
        try:
            files.mkdir(folder)
        except OSError:
            files.stat(folder)  # another landing was quicker, or it can't be made


def _walk(files: Any, folder: str, skip: tuple[type[OSError], ...] = ()) -> Iterator[tuple[str, paramiko.SFTPAttributes]]:
    """Path and attributes of the plain files below a folder; no symbolic link is followed. `skip`: why a folder is passed over.

    A name that isn't UTF-8 is none of ours, and paramiko can't ask for it.
    """
    try:
        found = files.listdir_attr(folder)
    except OSError as error:
        if not isinstance(error, (FileNotFoundError, *skip)):
            raise
        return
    for entry in found:
        path = f"{folder.rstrip('/')}/{entry.filename}"
        if entry.filename in (".", "..") or "/" in entry.filename or "\ufffd" in entry.filename:
            continue
        if stat.S_ISDIR(entry.st_mode or 0):
            yield from _walk(files, path, skip)
        elif stat.S_ISREG(entry.st_mode or 0):
            yield path, entry
