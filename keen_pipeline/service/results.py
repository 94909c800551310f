"""Where results lie, and the signed URLs that open them for a while.

A result is written into a local file first. Without a results URI it stays there and is shown by one rename; with one it is
copied there (smart-open: S3, GCS, Azure, SFTP, a folder), shown once the copy is complete, and the local file goes. smart-open
can't remove anything, so who starts the service gives what can.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from keen_pipeline.errors import AuthenticationError, ConfigurationError, KeenPipelineError, NotFoundError, ResultsExpiredError
from keen_pipeline.service.event_log import sync_file, sync_folder

CHUNK_BYTES = 256 * 1024


class StorageError(KeenPipelineError):
    """The storage at the results URI did not take, or not give up, a result; it may the next time."""


class Results:
    """Result files. `folder`: the local one. `uri`: where they are kept instead, None: there. `seconds`: lifetime of a URL.

    A result's `name` is `Extraction.result`. `remove_at_uri` removes the file of a name at the URI; without it they stay there
    until the storage's own lifecycle rules end them.
    """

    def __init__(
        self,
        folder: Path,
        uri: str | None,
        signing_key: str,
        seconds: float,
        remove_at_uri: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._uri = uri.rstrip("/") if uri is not None else None
        self._remove_at_uri = remove_at_uri
        self._key = signing_key.encode()
        self._seconds = seconds
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.part"):
            leftover.unlink()

    @property
    def is_remote(self) -> bool:
        """Whether results are kept at a URI instead of in the folder."""
        return self._uri is not None

    def part(self, name: str) -> Path:
        """Where a result is written before it is whole."""
        return self._folder / f"{name}.part"

    def path(self, name: str) -> Path:
        """The whole result in the folder."""
        return self._folder / f"{name}.csv"

    def publish(self, name: str) -> int:
        """Make the written result visible, whole and on disk; returns its size in bytes. Raises StorageError."""
        part = self.part(name)
        size = part.stat().st_size
        if self._uri is not None:
            self._copy(part, name)
            part.unlink()
            return size
        sync_file(part)
        part.rename(self.path(name))
        sync_folder(self._folder)
        return size

    def _copy(self, part: Path, name: str) -> None:
        # An upload that fails must not be completed by leaving the block: smart-open aborts it when an exception passes.
        try:
            with part.open("rb") as source, self._open(name, "wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
        except KeenPipelineError:
            raise
        except Exception as error:
            # Each storage's client has errors of its own; their texts may hold addresses with signatures.
            raise StorageError(f"the storage of results failed ({type(error).__name__})") from error

    def _open(self, name: str, mode: str) -> Any:
        import smart_open  # only where results are kept at a URI

        try:
            return smart_open.open(f"{self._uri}/{name}.csv", mode, compression="disable")
        except (ImportError, NotImplementedError, ValueError) as error:
            # ValueError is also what some storages raise for a missing object.
            if mode == "rb" and isinstance(error, ValueError):
                raise NotFoundError("this result is no longer kept; ask for a new extraction") from None
            raise ConfigurationError(f"service: the results URI can't be used ({type(error).__name__})") from None

    def read(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """Bytes `start` to `start + size` of a result at the URI, in chunks. Raises NotFoundError at the first step."""
        try:
            file = cast("BinaryIO", self._open(name, "rb"))
        except OSError:
            raise NotFoundError("this result is no longer kept; ask for a new extraction") from None
        with file:
            if start:
                file.seek(start)
            while size > 0 and (chunk := file.read(min(size, CHUNK_BYTES))):
                size -= len(chunk)
                yield chunk

    def discard(self, name: str) -> None:
        """Remove what was written of a result in the folder."""
        self.part(name).unlink(missing_ok=True)
        self.path(name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a result wherever it is kept. Raises StorageError where that can't be done now."""
        self.discard(name)
        if self._remove_at_uri is not None:
            try:
                self._remove_at_uri(f"{name}.csv")
            except Exception as error:
                raise StorageError(f"the storage of results failed ({type(error).__name__})") from error

    def remove_all_but(self, names: set[str]) -> None:
        """Remove local results whose records are gone, as a crash between the two leaves them."""
        for path in self._folder.glob("*.csv"):
            if path.stem not in names:
                path.unlink()

    def url(self, base_url: str, extraction_id: str, *, gzip: bool = False) -> str:
        """A URL of the result, or of its gzip form, that works until its lifetime ends."""
        expires = int(time.time() + self._seconds)
        file = f"{extraction_id}.csv{'.gz' if gzip else ''}"
        return f"{base_url}/results/{file}?expires={expires}&signature={self._signature(extraction_id, expires)}"

    def check(self, extraction_id: str, expires: str, signature: str) -> None:
        """Raises AuthenticationError for a wrong signature, ResultsExpiredError for a URL past its lifetime."""
        digits = expires if expires.isascii() and expires.isdigit() and len(expires) <= 12 else "0"
        if not hmac.compare_digest(self._signature(extraction_id, int(digits)).encode(), signature.encode("utf-8", "replace")):
            raise AuthenticationError("the signature of this results URL is wrong")
        if int(digits) < time.time():
            raise ResultsExpiredError("this results URL has expired; ask for the extraction's status to get a new one")

    def _signature(self, extraction_id: str, expires: int) -> str:
        return hmac.new(self._key, f"{extraction_id}:{expires}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()
