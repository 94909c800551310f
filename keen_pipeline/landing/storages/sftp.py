"""Files of an SFTP server: written beside their place, their size compared, renamed over the old one in one step.

smart_open's own connection takes any host key it has not seen before, so that a stranger in between would get the password and the
data. This one knows the host, or refuses.
"""

from __future__ import annotations

import io
import posixpath
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import paramiko

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, ServiceUnavailableError
from keen_pipeline.landing.storages.local import STAGE_SUFFIX
from keen_pipeline.landing.storages.options import SftpOptions
from keen_pipeline.landing.storages.remote import RemoteReader, StagedReader, local_stage
from keen_pipeline.settings import SftpSecrets

_PIECE_BYTES = 256 * 1024


class SftpStorage:
    """A folder of an SFTP server. One connection for all threads, made at the first use and again where it broke."""

    def __init__(self, root: str, options: SftpOptions) -> None:
        self._root = root
        self._options = options
        self._lock = threading.Lock()
        self._connection: paramiko.SSHClient | None = None
        if not urlsplit(root).hostname:
            raise ConfigurationError(f"destination {root}: names no host; write sftp://user@host/folder")

    def stage(self, target: str) -> AbstractContextManager[BinaryIO]:
        """An empty file without a name, in this machine's temporary folder."""
        return local_stage()

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False) -> None:
        """Make the staged bytes the file at `target`: readers see the old whole file or this one."""
        with StagedReader(stage) as reader, self._session(target) as files:
            self._put(files, reader, reader.size, _path(target))

    def write(self, target: str, data: bytes) -> None:
        """A small file, as whole as a landed one."""
        with self._session(target) as files:
            self._put(files, io.BytesIO(data), len(data), _path(target))

    def size(self, target: str) -> int | None:
        """In bytes; None where there is no file."""
        with self._session(target) as files:
            try:
                return int(files.stat(_path(target)).st_size or 0)
            except FileNotFoundError:
                return None

    def open(self, target: str) -> BinaryIO:
        """A binary reader with a channel of its own. Raises FileNotFoundError."""
        with self._translated(target):
            files = self._connected().open_sftp()
            try:
                reader = RemoteReader(
                    target, files.open(_path(target), "rb").read, (paramiko.SSHException, OSError, EOFError), files.close
                )
                return cast("BinaryIO", io.BufferedReader(reader, _PIECE_BYTES))
            except BaseException:
                files.close()
                raise

    def remove(self, target: str) -> None:
        """Remove one file; nothing happens where there is none."""
        with self._session(target) as files:
            try:
                files.remove(_path(target))
            except FileNotFoundError:
                return

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Remove staged files that nobody has written to for `older_than`, by this machine's clock; returns their URIs."""
        oldest = time.time() - older_than.total_seconds()
        root, removed = _path(self._root), []
        with self._session(self._root) as files:
            for path, modified in _staged(files, root):
                if modified >= oldest:
                    continue
                try:
                    files.remove(path)
                except FileNotFoundError:
                    continue  # its landing ended, or another process was quicker
                removed.append(self._root + path.removeprefix(root))
        return sorted(removed)

    def _put(self, files: paramiko.SFTPClient, source: Any, size: int, path: str) -> None:
        folder, name = posixpath.split(path)
        _make_folders(files, folder)
        staged = f"{folder}/.{name}.{secrets.token_hex(8)}{STAGE_SUFFIX}"
        try:
            with files.open(staged, "wxb") as file:
                file.set_pipelined(True)
                piece = source.read(_PIECE_BYTES)
                while following := source.read(_PIECE_BYTES):
                    file.write(piece)
                    piece = following
                # The last write waits for the answers to all of them; without that, one that failed would go unnoticed.
                file.set_pipelined(False)
                file.write(piece)
            _check_size(files, staged, size)
            files.posix_rename(staged, path)
        except BaseException:
            _remove_quietly(files, staged)
            raise

    @contextmanager
    def _session(self, target: str) -> Iterator[paramiko.SFTPClient]:
        with self._translated(target), self._connected().open_sftp() as files:
            channel = files.get_channel()
            if channel is not None:
                channel.settimeout(self._options.timeout_seconds)
            yield files

    def _connected(self) -> paramiko.SSHClient:
        with self._lock:
            transport = self._connection.get_transport() if self._connection is not None else None
            if self._connection is None or transport is None or not transport.is_active():
                if self._connection is not None:
                    self._connection.close()
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> paramiko.SSHClient:
        place, options, opens = urlsplit(self._root), self._options, SftpSecrets.from_environment()
        client = paramiko.SSHClient()
        known = Path(options.known_hosts or "~/.ssh/known_hosts").expanduser()
        try:
            client.load_host_keys(str(known))
        except FileNotFoundError:
            raise ConfigurationError(
                f"destination {self._root}: there is no file of known hosts {known}; make one by "
                f"`ssh-keyscan -p {place.port or 22} {place.hostname}`, and compare the key with the one the server's owner tells"
            ) from None
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            cast("str", place.hostname),
            place.port or 22,
            username=unquote(place.username) if place.username else None,
            password=opens.password,
            passphrase=opens.key_passphrase,
            key_filename=str(Path(options.key_file).expanduser()) if options.key_file else None,
            timeout=options.timeout_seconds,
            banner_timeout=options.timeout_seconds,
            auth_timeout=options.timeout_seconds,
        )
        return client

    @contextmanager
    def _translated(self, target: str) -> Iterator[None]:
        """Errors of paramiko and the server as ours: what the caller does next."""
        try:
            yield
        except (KeenPipelineError, FileNotFoundError):
            raise
        except paramiko.BadHostKeyException:
            raise ConfigurationError(
                f"destination {target}: the server shows another key than the file of known hosts has: a new server, or a stranger"
            ) from None
        except (paramiko.AuthenticationException, paramiko.PasswordRequiredException):
            raise ConfigurationError(
                f"destination {target}: the server refuses this user; check KEEN_PIPELINE_SFTP_PASSWORD or the option key_file"
            ) from None
        except PermissionError:
            raise ConfigurationError(f"destination {target}: this user may not write there") from None
        except paramiko.SSHException as error:
            if "not found in known_hosts" in str(error):
                raise ConfigurationError(
                    f"destination {target}: the server is not in the file of known hosts; add its key, which its owner tells"
                ) from None
            raise _unavailable(target, error) from None
        except (TimeoutError, OSError, EOFError) as error:
            if "unsupported" in str(error).lower():
                raise ConfigurationError(
                    f"destination {target}: the server can't replace a file in one step (posix-rename@openssh.com)"
                ) from None
            raise _unavailable(target, error) from None


def _unavailable(target: str, error: BaseException) -> ServiceUnavailableError:
    return ServiceUnavailableError(f"destination {target}: the storage failed ({type(error).__name__}); nothing was published")


def _path(uri: str) -> str:
    return "/" + unquote(urlsplit(uri.replace("#", "%23").replace("?", "%3F")).path).lstrip("/")


def _make_folders(files: paramiko.SFTPClient, folder: str) -> None:
    missing = []
    while folder != "/":
        try:
            files.stat(folder)
            break
        except FileNotFoundError:
            missing.append(folder)
            folder = posixpath.dirname(folder)
    for one in reversed(missing):
        try:
            files.mkdir(one)
        except OSError:
            files.stat(one)  # another landing was quicker, or it can't be made


def _staged(files: paramiko.SFTPClient, folder: str) -> Iterator[tuple[str, float]]:
    try:
        found = files.listdir_attr(folder)
    except FileNotFoundError:
        return
    for entry in found:
        path = f"{folder}/{entry.filename}"
        if stat.S_ISDIR(entry.st_mode or 0):
            yield from _staged(files, path)
        elif entry.filename.startswith(".") and entry.filename.endswith(STAGE_SUFFIX):
            yield path, float(entry.st_mtime or 0)


def _check_size(files: paramiko.SFTPClient, path: str, size: int) -> None:
    if files.stat(path).st_size != size:
        raise OSError(5, "the server has another number of bytes than was sent")


def _remove_quietly(files: paramiko.SFTPClient, path: str) -> None:
    try:
        files.remove(path)
    except (OSError, EOFError, paramiko.SSHException):
        return  # not there yet, or the connection is gone: `remove_leftovers` finds it
