"""Blobs of an Azure container: blocks are staged, and one commit of their list makes the blob appear.

The blocks' names are this landing's own, so that two landings of one blob can't mix; the second commit is refused when the first
one has discarded its blocks. What was staged and not committed nobody sees, and Azure forgets it after a week.
"""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, BinaryIO

import smart_open
from azure.core import MatchConditions, exceptions
from azure.storage.blob import BlobBlock, BlobServiceClient, ExponentialRetry

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.storages.errors import cleaned, for_a_person, unavailable
from keen_pipeline.landing.storages.options import AzureOptions
from keen_pipeline.landing.storages.remote import (
    READ_BYTES,
    check_inside,
    check_size,
    exactly,
    local_stage,
    part_of,
    reader_of,
    split,
)
from keen_pipeline.landing.storages.storage import Fence, no_fence

PART_BYTES = 8 * 1024 * 1024
"""Of a block, held in memory while it is sent, of blobs up to 400 GB; those of larger ones have longer blocks."""
MOST_BLOCKS = 50_000
LARGEST_BLOB = MOST_BLOCKS * 4000 * 1024**2
"""In bytes: what Azure allows."""
PARTS_AT_ONCE = 2
_FAILURES = (exceptions.AzureError, ValueError, OSError)
_WRONG = frozenset({"InvalidResourceName", "InvalidUri", "UnsupportedHttpVerb", "AccountIsDisabled", "FeatureNotSupported"})
_KEYS = "Check the AZURE_STORAGE_* variables and the account's roles."


class AzureStorage:
    """One container, or a prefix of it. Raises ConfigurationError when no account is named."""

    def __init__(self, root: str, options: AzureOptions) -> None:
        self._root = root
        try:
            self._client = _new_client(root, options)
        except (ValueError, TypeError) as error:
            raise for_a_person(root, f"its settings can't be used ({type(error).__name__})", _KEYS) from None

    def stage(self, target: str) -> AbstractContextManager[BinaryIO]:
        """An empty file without a name, in this machine's temporary folder."""
        return local_stage()

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False, fence: Fence = no_fence) -> None:
        """Make the staged bytes the blob at `target`, in one step."""
        descriptor, size = stage.fileno(), stage.seek(0, os.SEEK_END)
        check_size(target, size, LARGEST_BLOB)
        if size <= PART_BYTES:
            self.write(target, exactly(descriptor, 0, size), fence=fence)
            return
        blob, token = self._blob(target), secrets.token_hex(8)
        length = max(PART_BYTES, -(-size // MOST_BLOCKS))
        blocks = [b64encode(f"{token}-{number:06d}".encode()).decode() for number in range(-(-size // length))]

        def send(number: int) -> None:
            part = part_of(descriptor, number * length, min(length, size - number * length))
            blob.stage_block(blocks[number], part, length=len(part))

        with _translated(target):
            with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="landing-part") as threads:
                sent = [threads.submit(send, number) for number in range(len(blocks))]
                try:
                    for one in sent:
                        one.result()
                except BaseException:
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise
            fence()
            blob.commit_block_list([BlobBlock(block_id=block) for block in blocks])

    def write(self, target: str, data: bytes, *, fence: Fence = no_fence) -> None:
        """A small blob in one request."""
        with _translated(target):
            fence()
            self._blob(target).upload_blob(data, length=len(data), overwrite=True)

    def size(self, target: str) -> int | None:
        """In bytes; None if there is no blob."""
        found = self._found(target)
        return None if found is None else int(found.size)

    def open(self, target: str) -> BinaryIO:
        """A binary reader of the present version. Raises FileNotFoundError."""
        found = self._found(target)
        if found is None:
            raise FileNotFoundError(target)
        parameters = {"client": _Pinned(self._blob(target), found), "buffer_size": READ_BYTES}
        with _translated(target):
            file = smart_open.open(target, "rb", compression="disable", transport_params=parameters)
        return reader_of(target, file, _FAILURES)

    def remove(self, target: str) -> None:
        """Remove one blob; nothing happens when there is none. Raises InvalidInputError for one outside the root."""
        check_inside(self._root, target)
        with _translated(target):
            try:
                self._blob(target).delete_blob()
            except exceptions.ResourceNotFoundError:
                return

    def files(self, folder: str) -> Iterator[tuple[str, int]]:
        """URI and bytes of each blob below `folder`."""
        check_inside(self._root, folder)
        container, prefix = split(folder + "/")
        with _translated(folder):
            for found in self._client.get_container_client(container).list_blobs(name_starts_with=prefix):
                if not found.name.endswith("/"):
                    yield f"azure://{container}/{found.name}", int(found.size)

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Nothing is ever left that could be removed. Raises ConfigurationError when the container is missing."""
        with _translated(self._root):
            self._client.get_container_client(split(self._root)[0]).get_container_properties()
        return []

    def _found(self, target: str) -> Any:
        with _translated(target):
            try:
                return self._blob(target).get_blob_properties()
            except exceptions.ResourceNotFoundError:
                return None

    def _blob(self, target: str) -> Any:
        container, key = split(target)
        return self._client.get_blob_client(container, key)


class _Pinned:
    """What smart_open's reader asks of a blob's client, of one version alone: when it was replaced the answer is an error."""

    def __init__(self, blob: Any, found: Any) -> None:
        self._blob, self._found = blob, found

    def get_blob_properties(self) -> Any:
        """Of the version that was found."""
        return self._found

    def download_blob(self, **asked: Any) -> Any:
        """A piece of it."""
        return self._blob.download_blob(**asked, etag=self._found.etag, match_condition=MatchConditions.IfNotModified)


def _new_client(root: str, options: AzureOptions) -> BlobServiceClient:
    settings: dict[str, Any] = {
        "retry_policy": ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=4),
        "connection_timeout": 20,  # seconds
        "read_timeout": 60,  # seconds, of each wait for an answer
        "max_single_get_size": READ_BYTES,
        "max_chunk_get_size": READ_BYTES,
        "max_single_put_size": PART_BYTES,
    }
    connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    account = options.account or os.environ.get("AZURE_STORAGE_ACCOUNT")
    endpoint = options.endpoint or (f"https://{account}.blob.core.windows.net" if account else None)
    if endpoint is None:
        if not connection:
            mend = "Set AZURE_STORAGE_CONNECTION_STRING, or the option account and AZURE_STORAGE_KEY."
            raise for_a_person(root, "no storage account", mend)
        try:
            return BlobServiceClient.from_connection_string(connection, **settings)
        except ValueError:
            why = "AZURE_STORAGE_CONNECTION_STRING does not have the form of a connection string"
            raise for_a_person(root, why) from None
    return BlobServiceClient(endpoint, credential=_credential(root, account), **settings)


def _credential(root: str, account: str | None) -> Any:
    key, token = os.environ.get("AZURE_STORAGE_KEY"), os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    if key:
        return {"account_name": account, "account_key": key} if account else key
    if token:
        return token
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        mend = "Set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or pip install azure-identity."
        raise for_a_person(root, "no credentials", mend) from None
    return DefaultAzureCredential()


@contextmanager
def _translated(target: str) -> Iterator[None]:
    """Errors of Azure's client as ours: what the caller does next."""
    try:
        yield
    except (KeenPipelineError, FileNotFoundError):
        raise
    except exceptions.ResourceNotFoundError:
        raise for_a_person(target, "there is no such container") from None
    except exceptions.HttpResponseError as error:
        code = getattr(error, "error_code", None) or error.status_code or type(error).__name__
        code = cleaned(getattr(code, "value", code))
        if error.status_code in (401, 403):
            raise for_a_person(target, f"access was refused ({code})", _KEYS) from None
        if code in _WRONG:
            raise for_a_person(target, f"the service refuses what it was asked ({code})", _KEYS) from None
        raise unavailable(target, code) from None
    except _FAILURES as error:
        raise unavailable(target, error) from None
