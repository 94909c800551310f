"""Objects of a Google Cloud Storage bucket: one appears with the last byte of its upload, whose length is announced before.

An upload that ends early leaves nothing to see or to remove: Google forgets it after a week.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, cast

import google.api_core.exceptions
import google.auth.exceptions
import requests
from google.cloud import storage

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, ServiceUnavailableError
from keen_pipeline.landing.storages.options import GcsOptions
from keen_pipeline.landing.storages.remote import RemoteReader, StagedReader, local_stage, split

PART_BYTES = 8 * 1024 * 1024
"""Of an upload, held in memory; a multiple of 256 KiB, as the protocol asks."""
_READ_BYTES = 4 * 1024 * 1024
_FAILURES = (google.api_core.exceptions.GoogleAPIError, google.auth.exceptions.GoogleAuthError, requests.RequestException)


class GcsStorage:
    """One bucket, or a prefix of it. Raises ConfigurationError where there are no credentials."""

    def __init__(self, root: str, options: GcsOptions) -> None:
        self._root = root
        with _translated(root):
            if options.endpoint is None:
                self._client = storage.Client(project=options.project)
            else:
                self._client = storage.Client(
                    project=options.project or "emulated",
                    client_options={"api_endpoint": options.endpoint},
                    use_auth_w_custom_endpoint=False,
                )

    def stage(self, target: str) -> AbstractContextManager[BinaryIO]:
        """An empty file without a name, in this machine's temporary folder."""
        return local_stage()

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False) -> None:
        """Make the staged bytes the object at `target`, in one step; their check sum is compared."""
        staged = StagedReader(stage)
        with _translated(target), io.BufferedReader(staged, PART_BYTES) as reader:
            self._blob(target).upload_from_file(reader, size=staged.size, checksum="crc32c")

    def write(self, target: str, data: bytes) -> None:
        """A small object in one request."""
        with _translated(target):
            self._blob(target).upload_from_string(data, content_type="application/octet-stream")

    def size(self, target: str) -> int | None:
        """In bytes; None where there is no object."""
        blob = self._blob(target)
        with _translated(target):
            try:
                blob.reload()
            except google.api_core.exceptions.NotFound:
                return None
        return int(blob.size)

    def open(self, target: str) -> BinaryIO:
        """A binary reader of the present version. Raises FileNotFoundError."""
        bucket, key = split(target)
        with _translated(target):
            found = self._client.bucket(bucket).get_blob(key)
            if found is None:
                raise FileNotFoundError(target)
            # Named in each request, so that none is answered from a newer object.
            pinned = self._client.bucket(bucket).blob(key, generation=found.generation)
        position = 0

        def read(length: int) -> bytes:
            nonlocal position
            try:
                data: bytes = pinned.download_as_bytes(start=position, end=position + length - 1, checksum=None)
            except google.api_core.exceptions.RequestRangeNotSatisfiable:
                return b""
            position += len(data)
            return data

        return cast("BinaryIO", io.BufferedReader(RemoteReader(target, read, _FAILURES), _READ_BYTES))

    def remove(self, target: str) -> None:
        """Remove one object; nothing happens where there is none."""
        with _translated(target):
            try:
                self._blob(target).delete()
            except google.api_core.exceptions.NotFound:
                return

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Nothing is ever left that could be removed. Raises ConfigurationError where the bucket is missing."""
        with _translated(self._root):
            self._client.get_bucket(split(self._root)[0])
        return []

    def _blob(self, target: str) -> Any:
        bucket, key = split(target)
        return self._client.bucket(bucket).blob(key, chunk_size=PART_BYTES)


@contextmanager
def _translated(target: str) -> Iterator[None]:
    """Errors of Google's client as ours: what the caller does next."""
    try:
        yield
    except (KeenPipelineError, FileNotFoundError):
        raise
    except google.auth.exceptions.GoogleAuthError as error:
        raise ConfigurationError(
            f"destination {target}: no credentials that work ({type(error).__name__}); set GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    except google.api_core.exceptions.NotFound:
        raise ConfigurationError(f"destination {target}: there is no such bucket") from None
    except (google.api_core.exceptions.Forbidden, google.api_core.exceptions.Unauthorized) as error:
        raise ConfigurationError(
            f"destination {target}: access was refused ({error.code}); check the account's rights on the bucket"
        ) from None
    except (*_FAILURES, OSError) as error:
        raise ServiceUnavailableError(
            f"destination {target}: the storage failed ({type(error).__name__}); nothing was published"
        ) from None
