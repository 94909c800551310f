"""Objects of a Google Cloud Storage bucket: one appears with the last byte of its upload, whose length is announced before.

An upload that ends early leaves nothing to see or to remove: Google forgets it after a week.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, BinaryIO

import google.api_core.exceptions
import google.auth.exceptions
import requests
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.storages.errors import cleaned, for_a_person, unavailable
from keen_pipeline.landing.storages.options import GcsOptions
from keen_pipeline.landing.storages.remote import (
    StagedReader,
    check_inside,
    check_size,
    exactly,
    local_stage,
    reader_of,
    split,
)
from keen_pipeline.landing.storages.storage import Fence, no_fence

PART_BYTES = 8 * 1024 * 1024
"""Of an upload, held in memory; a multiple of 256 KiB, as the protocol asks."""
LARGEST_OBJECT = 5 * 1024**4
"""In bytes: what Google allows."""
RETRY_SECONDS = 60.0
"""How long one request is tried again for."""
_TIMEOUT = (20.0, 60.0)  # seconds: to connect, and of each wait for an answer
_FAILURES = (
    *(google.api_core.exceptions.GoogleAPIError, google.auth.exceptions.GoogleAuthError, requests.RequestException),
    *(ValueError, OSError),
)
_WRONG = (
    google.api_core.exceptions.BadRequest,
    google.api_core.exceptions.MethodNotAllowed,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
)
_KEYS = "Check GOOGLE_APPLICATION_CREDENTIALS and the account's rights on the bucket."


class GcsStorage:
    """One bucket, or a prefix of it. Raises ConfigurationError when there are no credentials."""

    def __init__(self, root: str, options: GcsOptions) -> None:
        self._root = root
        try:
            with _translated(root):
                if options.endpoint is None:
                    self._client = storage.Client(project=options.project)
                else:
                    self._client = storage.Client(
                        project=options.project or "emulated",
                        client_options={"api_endpoint": options.endpoint},
                        use_auth_w_custom_endpoint=False,
                    )
        except OSError as error:  # the library's word for a project that it can't find
            raise for_a_person(root, f"its settings can't be used ({type(error).__name__})", "Set the option project.") from None

    def stage(self, target: str) -> AbstractContextManager[BinaryIO]:
        """An empty file without a name, in this machine's temporary folder."""
        return local_stage()

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False, fence: Fence = no_fence) -> None:
        """Make the staged bytes the object at `target`, in one step; their check sum is compared."""
        size = stage.seek(0, 2)
        check_size(target, size, LARGEST_OBJECT)
        if size <= PART_BYTES:
            self.write(target, exactly(stage.fileno(), 0, size), fence=fence)
            return
        # The request with the last byte makes the object appear.
        with _translated(target), StagedReader(stage.fileno(), 0, size, at_end=fence) as reader:
            self._blob(target).upload_from_file(reader, size=size, checksum="crc32c", **_bounds())

    def write(self, target: str, data: bytes, *, fence: Fence = no_fence) -> None:
        """A small object in one request."""
        with _translated(target):
            fence()
            self._blob(target).upload_from_string(data, "application/octet-stream", checksum="crc32c", **_bounds())

    def size(self, target: str) -> int | None:
        """In bytes; None if there is no object."""
        found = self._found(target)
        return None if found is None else int(found.size)

    def open(self, target: str) -> BinaryIO:
        """A binary reader of the present version. Raises FileNotFoundError."""
        found = self._found(target)
        if found is None:
            raise FileNotFoundError(target)
        bucket, key = split(target)
        version = self._client.bucket(bucket).blob(key, generation=found.generation)
        with _translated(target):
            return reader_of(target, _Version(version, int(found.size)), _FAILURES)

    def remove(self, target: str) -> None:
        """Remove one object; nothing happens when there is none. Raises InvalidInputError for one outside the root."""
        check_inside(self._root, target)
        with _translated(target):
            try:
                self._blob(target).delete(**_bounds())
            except google.api_core.exceptions.NotFound:
                return

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        """URI and bytes of each object below `folder`."""
        check_inside(self._root, folder)
        bucket, prefix = split(folder + "/")
        with _translated(folder):
            for found in self._client.list_blobs(bucket, prefix=prefix, **_bounds()):
                if not found.name.endswith("/"):
                    yield f"gs://{bucket}/{found.name}", int(found.size)

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Nothing is ever left that could be removed. Raises ConfigurationError when the bucket is missing."""
        with _translated(self._root):
            self._client.get_bucket(split(self._root)[0], **_bounds())
        return []

    def _found(self, target: str) -> Any:
        bucket, key = split(target)
        with _translated(target):
            return self._client.bucket(bucket).get_blob(key, **_bounds())

    def _blob(self, target: str) -> Any:
        bucket, key = split(target)
        return self._client.bucket(bucket).blob(key, chunk_size=PART_BYTES)


class _Version:
    """One version of an object, as a file: each request names it, so that none is answered from a newer one.

    The library's own reader looks the object up again before it seeks, and then goes by the link that it finds there.
    """

    def __init__(self, blob: Any, size: int) -> None:
        self._blob, self._size, self._position = blob, size, 0

    def read(self, length: int) -> bytes:
        end = min(self._position + length, self._size)
        if end <= self._position:
            return b""
        data: bytes = self._blob.download_as_bytes(start=self._position, end=end - 1, checksum=None, **_bounds())
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        before = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, before + offset)

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """Nothing is open between the requests."""


def _bounds() -> dict[str, Any]:
    return {"timeout": _TIMEOUT, "retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS)}


@contextmanager
def _translated(target: str) -> Iterator[None]:
    """Errors of Google's client as ours: what the caller does next."""
    try:
        yield
    except (KeenPipelineError, FileNotFoundError):
        raise
    except google.auth.exceptions.GoogleAuthError as error:
        if isinstance(error, google.auth.exceptions.TransportError) or error.retryable:
            raise unavailable(target, error) from None
        raise for_a_person(target, f"no credentials that work ({type(error).__name__})", _KEYS) from None
    except google.api_core.exceptions.NotFound:
        raise for_a_person(target, "there is no such bucket") from None
    except (google.api_core.exceptions.Forbidden, google.api_core.exceptions.Unauthorized) as error:
        raise for_a_person(target, f"access was refused ({cleaned(error.code)})", _KEYS) from None
    except _WRONG as error:
        raise for_a_person(target, f"the service refuses what it was asked ({type(error).__name__})") from None
    except _FAILURES as error:
        raise unavailable(target, error) from None
