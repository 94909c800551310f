"""Where results lie, and the signed URLs that open them for a while."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from pathlib import Path

from keen_pipeline.errors import AuthenticationError, ResultsExpiredError


class Results:
    """Result files in a folder. `seconds`: lifetime of a URL. A file is there whole or not at all."""

    def __init__(self, folder: Path, signing_key: str, seconds: float) -> None:
        self._folder = folder
        self._key = signing_key.encode()
        self._seconds = seconds
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.part"):
            leftover.unlink()

    def part(self, extraction_id: str) -> Path:
        """Where a result is written before it is whole."""
        return self._folder / f"{extraction_id}.part"

    def path(self, extraction_id: str) -> Path:
        """The whole result."""
        return self._folder / f"{extraction_id}.csv"

    def publish(self, extraction_id: str) -> int:
        """Make the written result visible, whole and on disk; returns its size in bytes."""
        part, path = self.part(extraction_id), self.path(extraction_id)
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        part.rename(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return size

    def discard(self, extraction_id: str) -> None:
        """Remove a result and what was written of it."""
        self.part(extraction_id).unlink(missing_ok=True)
        self.path(extraction_id).unlink(missing_ok=True)

    def remove_all_but(self, ids: set[str]) -> None:
        """Remove results whose records are gone, as a crash between the two leaves them."""
        for path in self._folder.glob("*.csv"):
            if path.stem not in ids:
                path.unlink()

    def url(self, base_url: str, extraction_id: str) -> str:
        """A URL of the result that works until its lifetime ends."""
        expires = int(time.time() + self._seconds)
        return f"{base_url}/results/{extraction_id}.csv?expires={expires}&signature={self._signature(extraction_id, expires)}"

    def check(self, extraction_id: str, expires: str, signature: str) -> None:
        """Raises AuthenticationError for a wrong signature, ResultsExpiredError for a URL past its lifetime."""
        digits = expires if expires.isascii() and expires.isdigit() and len(expires) <= 12 else "0"
        if not hmac.compare_digest(self._signature(extraction_id, int(digits)).encode(), signature.encode()):
            raise AuthenticationError("the signature of this results URL is wrong")
        if int(digits) < time.time():
            raise ResultsExpiredError("this results URL has expired; ask for the extraction's status to get a new one")

    def _signature(self, extraction_id: str, expires: int) -> str:
        return hmac.new(self._key, f"{extraction_id}:{expires}".encode(), hashlib.sha256).hexdigest()
