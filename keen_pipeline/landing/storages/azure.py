"""Blobs of an Azure container: blocks are staged, and one commit of their list makes the blob appear.

The blocks' names are this landing's own, so that two landings of one blob can't mix; the second commit is refused where the first
one has discarded its blocks. What was staged and not committed nobody sees, and Azure forgets it after a week.
"""

from __future__ import annotations

import io
import os
import secrets
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, cast

from azure.core import exceptions
from azure.storage.blob import BlobBlock, BlobServiceClient, ExponentialRetry

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, ServiceUnavailableError
from keen_pipeline.landing.storages.options import AzureOptions
from keen_pipeline.landing.storages.remote import RemoteReader, local_stage, split

PART_BYTES = 8 * 1024 * 1024
"""Of a block, held in memory while it is sent; Azure allows 50,000, so that a file may have 400 GB."""
PARTS_AT_ONCE = 2
_READ_BYTES = 4 * 1024 * 1024


class AzureStorage:
    """One container, or a prefix of it. Raises ConfigurationError where no account is named."""

    def __init__(self, root: str, options: AzureOptions) -> None:
        self._root = root
        self._client = _new_client(root, options)

    def stage(self, target: str) -> AbstractContextManager[BinaryIO]:
        """An empty file without a name, in this machine's temporary folder."""
        return local_stage()

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False) -> None:
        """Make the staged bytes the blob at `target`, in one step."""
        size = stage.seek(0, os.SEEK_END)
        if size <= PART_BYTES:
            self.write(target, os.pread(stage.fileno(), size, 0))
            return
        blob, token = self._blob(target), secrets.token_hex(8)
        blocks = [b64encode(f"{token}-{number:06d}".encode()).decode() for number in range(-(-size // PART_BYTES))]

        def send(number: int) -> None:
            data = os.pread(stage.fileno(), PART_BYTES, number * PART_BYTES)
            if len(data) != min(PART_BYTES, size - number * PART_BYTES):
                raise OSError(5, "the staged file is shorter than it was")
            blob.stage_block(blocks[number], data, length=len(data))

        with _translated(target), ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="landing-part") as threads:
            for _ in threads.map(send, range(len(blocks))):
                pass
            blob.commit_block_list([BlobBlock(block_id=block) for block in blocks])

    def write(self, target: str, data: bytes) -> None:
        """A small blob in one request."""
        with _translated(target):
            self._blob(target).upload_blob(data, length=len(data), overwrite=True)

    def size(self, target: str) -> int | None:
        """In bytes; None where there is no blob."""
        with _translated(target):
            try:
                return int(self._blob(target).get_blob_properties().size)
            except exceptions.ResourceNotFoundError:
                return None

    def open(self, target: str) -> BinaryIO:
        """A binary reader of the present version. Raises FileNotFoundError."""
        with _translated(target):
            try:
                # Every request of one download names the first one's ETag, so that none is answered from a newer blob.
                stream = self._blob(target).download_blob()
            except exceptions.ResourceNotFoundError:
                raise FileNotFoundError(target) from None
        return cast("BinaryIO", io.BufferedReader(RemoteReader(target, stream.read, (exceptions.AzureError,)), _READ_BYTES))

    def remove(self, target: str) -> None:
        """Remove one blob; nothing happens where there is none."""
        with _translated(target):
            try:
                self._blob(target).delete_blob()
            except exceptions.ResourceNotFoundError:
                return

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Nothing is ever left that could be removed. Raises ConfigurationError where the container is missing."""
        with _translated(self._root):
            self._client.get_container_client(split(self._root)[0]).get_container_properties()
        return []

    def _blob(self, target: str) -> Any:
        container, key = split(target)
        return self._client.get_blob_client(container, key)


def _new_client(root: str, options: AzureOptions) -> BlobServiceClient:
    settings: dict[str, Any] = {
        "retry_policy": ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=4),
        "max_single_get_size": _READ_BYTES,
        "max_chunk_get_size": _READ_BYTES,
        "max_single_put_size": PART_BYTES,
    }
    connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    account = options.account or os.environ.get("AZURE_STORAGE_ACCOUNT")
    endpoint = options.endpoint or (f"https://{account}.blob.core.windows.net" if account else None)
    if endpoint is None:
        if not connection:
            raise ConfigurationError(
                f"destination {root}: no storage account; set AZURE_STORAGE_CONNECTION_STRING, or the option account and "
                "AZURE_STORAGE_KEY"
            )
        try:
            return BlobServiceClient.from_connection_string(connection, **settings)
        except ValueError:
            raise ConfigurationError(
                f"destination {root}: AZURE_STORAGE_CONNECTION_STRING does not have the form of a connection string"
            ) from None
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
        raise ConfigurationError(
            f"destination {root}: no credentials; set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or pip install azure-identity"
        ) from None
    return DefaultAzureCredential()


@contextmanager
def _translated(target: str) -> Iterator[None]:
    """Errors of Azure's client as ours: what the caller does next."""
    try:
        yield
    except (KeenPipelineError, FileNotFoundError):
        raise
    except exceptions.ResourceNotFoundError:
        raise ConfigurationError(f"destination {target}: there is no such container") from None
    except exceptions.HttpResponseError as error:
        code = getattr(error, "error_code", None) or error.status_code or type(error).__name__
        code = getattr(code, "value", code)
        if error.status_code in (401, 403):
            raise ConfigurationError(
                f"destination {target}: access was refused ({code}); check the AZURE_STORAGE_* variables and the account's roles"
            ) from None
        raise ServiceUnavailableError(f"destination {target}: the storage failed ({code}); nothing was published") from None
    except (exceptions.AzureError, ValueError, OSError) as error:
        raise ServiceUnavailableError(
            f"destination {target}: the storage failed ({type(error).__name__}); nothing was published"
        ) from None
