"""Objects of a Google Cloud Storage bucket: one appears with the last byte of its upload, whose length is announced before.

An upload that ends early leaves nothing to see or to remove: Google forgets it after a week.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import google.api_core.exceptions
import google.auth.exceptions
import requests
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.storages import remote
from keen_pipeline.landing.storages.errors import for_a_person, refused, unavailable
from keen_pipeline.landing.storages.remote import Ask, ObjectStorage, StoredReader, exactly, split
from keen_pipeline.landing.storages.storage import Fence, Options

RETRY_SECONDS = 60.0
"""How long one request is tried again for."""
_TIMEOUT = (20.0, 60.0)  # seconds: to connect, and of each wait for an answer
_WRONG = (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema)
_KEYS = "Check GOOGLE_APPLICATION_CREDENTIALS and the account's rights on the bucket."


class GcsStorage(ObjectStorage):
    """One bucket, or a prefix of it. Raises ConfigurationError when there are no credentials."""

    _failures = (
        *(google.api_core.exceptions.GoogleAPIError, google.auth.exceptions.GoogleAuthError, requests.RequestException),
        *(ValueError, OSError),
    )

    def __init__(self, root: str, options: Options) -> None:
        super().__init__(root, options)
        endpoint, settings = options.get("endpoint"), {"project": options.get("project")}
        if endpoint is not None:  # of an emulator, which gets no credentials
            settings["project"] = settings["project"] or "emulated"
            settings |= {"client_options": {"api_endpoint": endpoint}, "use_auth_w_custom_endpoint": False}
        try:
            self._client = storage.Client(**settings)
        except OSError as error:  # the library's word for a project that it can't find
            why = f"its settings can't be used ({type(error).__name__})"
            raise for_a_person(root, why, f"Set the option project. {_KEYS}") from None
        except self._failures as error:
            raise self._error(error, root) from None

    def _put(self, target: str, data: bytes) -> None:
        self._blob(target).upload_from_string(data, "application/octet-stream", checksum="crc32c", **_bounds())

    def _send(self, target: str, stage: BinaryIO, size: int, fence: Fence) -> None:
        def part(start: int, end: int) -> bytes:
            data = exactly(stage.fileno(), start, end - start)
            if end == size:  # the request with the last byte makes the object appear
                fence()
            return data

        self._blob(target).upload_from_file(StoredReader(target, size, part), size=size, checksum="crc32c", **_bounds())

    def _find(self, target: str) -> tuple[int, Any] | None:
        bucket, key = split(target)
        found = self._client.bucket(bucket).get_blob(key, **_bounds())
        return None if found is None else (int(found.size), found.generation)

    def _reader(self, target: str, version: Any) -> Ask:
        # The library's own reader looks the object up again before it seeks, and then goes by the link that it finds there.
        bucket, key = split(target)
        blob = self._client.bucket(bucket).blob(key, generation=version)
        return lambda start, end: blob.download_as_bytes(start=start, end=end - 1, checksum=None, **_bounds())

    def _delete(self, target: str) -> None:
        with suppress(google.api_core.exceptions.NotFound):
            self._blob(target).delete(**_bounds())

    def _listed(self, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
        for found in self._client.list_blobs(bucket, prefix=prefix, **_bounds()):
            yield found.name, int(found.size)

    def _blob(self, target: str) -> Any:
        bucket, key = split(target)
        return self._client.bucket(bucket).blob(key, chunk_size=remote.PART_BYTES)

    def _error(self, error: Exception, target: str) -> KeenPipelineError:
        if isinstance(error, google.auth.exceptions.GoogleAuthError):
            if isinstance(error, google.auth.exceptions.TransportError) or error.retryable:
                return unavailable(target, error)
            return for_a_person(target, f"no credentials that work ({type(error).__name__})", _KEYS)
        if isinstance(error, google.api_core.exceptions.NotFound):
            return for_a_person(target, "there is no such bucket")
        if isinstance(error, _WRONG):
            return for_a_person(target, f"the service refuses what it was asked ({type(error).__name__})")
        if isinstance(error, google.api_core.exceptions.GoogleAPICallError) and error.code is not None:
            return refused(target, error.code, f"{error.code} {type(error).__name__}", _KEYS, error)
        return unavailable(target, error)


def _bounds() -> dict[str, Any]:
    return {"timeout": _TIMEOUT, "retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS)}
