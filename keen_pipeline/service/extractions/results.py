"""Where results lie, and the signed URLs that open them for a while.

A result is written into a local file first. It stays there and is shown by one rename; or it is copied to a storage, shown once
the copy is complete, and the local file goes.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from keen_pipeline.errors import AuthenticationError, NotFoundError, ResultsExpiredError
from keen_pipeline.service.storage.folder.presence import sync
from keen_pipeline.service.storage.places import ObjectStore

CHUNK_BYTES = 256 * 1024


class Results:
    """Result files. `folder`: the local one. `seconds`: lifetime of a URL. A result's `name` is `Turn.result`.

    `objects`: where they are kept instead, under `prefix`, None: in the folder. Each method that asks it may raise
    ServiceUnavailableError.
    """

    def __init__(self, folder: Path, objects: ObjectStore | None, signing_key: str, seconds: float, prefix: str = "") -> None:
        self._folder = folder
        self._objects, self._prefix = objects, prefix
        self._key = signing_key.encode()
        self._seconds = seconds
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in folder.glob("*.part"):
            leftover.unlink()

    def part(self, name: str) -> Path:
        self._folder.mkdir(exist_ok=True, mode=0o700)  # whoever needs room may have removed all results
        return self._folder / f"{name}.part"

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.csv"

    def _object(self, name: str) -> str:
        return f"{self._prefix}{name}.csv"

    def publish(self, name: str) -> int:
        """Make the written result visible, whole and on disk; returns its size in bytes."""
        part = self.part(name)
        size = part.stat().st_size
        if self._objects is not None:
            self._objects.put(self._object(name), part)
            part.unlink()
            return size
        sync(part)
        part.rename(self.path(name))
        sync(self._folder)
        return size

    def read(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """Bytes `start` to `start + size` of a result, in chunks. Raises NotFoundError at the first step."""
        here = self.path(name)
        try:
            # What was written before results were kept elsewhere is still here.
            file = here.open("rb") if self._objects is None or here.exists() else self._objects.open(self._object(name))
        except FileNotFoundError:
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
        """Remove a result wherever it is kept."""
        self.discard(name)
        if self._objects is not None:
            self._objects.remove(self._object(name))

    def remove_unknown(self, known: Callable[[], set[str]], finished_before: float) -> None:
        """Remove local results without a record that were written before: an older database that was put back may still be
        replaced by the newer one, so what is unknown is kept as long as any other result."""
        old = [path for path in self._folder.glob("*.csv") if path.stat().st_mtime < finished_before]
        names = known() if old else set()
        for path in old:
            if path.stem.partition("-")[0] not in names:
                path.unlink(missing_ok=True)

    def url(self, base_url: str, extraction_id: str, *, gzip: bool = False, seconds: float | None = None) -> str:
        """A URL of the result, or of its gzip form, that works until its lifetime ends: `seconds`, or the configured one."""
        expires = int(time.time() + (self._seconds if seconds is None else seconds))
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
        return hmac.digest(self._key, f"{extraction_id}:{expires}".encode("utf-8", "replace"), "sha256").hex()
