"""Blobs of an Azure container: blocks are staged, and one commit of their list makes the blob appear.

The blocks' names are this landing's own, so that two landings of one blob can't mix; the second commit is refused when the first
one has discarded its blocks. What was staged and not committed nobody sees, and Azure forgets it after a week.
"""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from azure.core import MatchConditions, exceptions
from azure.storage.blob import BlobBlock, BlobServiceClient, ExponentialRetry

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.storages import remote
from keen_pipeline.landing.storages.errors import cleaned, for_a_person, refused, unavailable
from keen_pipeline.landing.storages.remote import Ask, ObjectStorage, in_parts, split
from keen_pipeline.landing.storages.storage import Fence, Options

MOST_BLOCKS = 50_000
"""Of a blob."""
_KEYS = "Check the AZURE_STORAGE_* variables and the account's roles."


class AzureStorage(ObjectStorage):
    """One container, or a prefix of it. Raises ConfigurationError when no account is named."""

    _failures = (exceptions.AzureError, ValueError, OSError)

    def __init__(self, root: str, options: Options) -> None:
        super().__init__(root, options)
        try:
            self._client = _new_client(root, options)
        except (ValueError, TypeError) as error:
            raise for_a_person(root, f"its settings can't be used ({type(error).__name__})", _KEYS) from None

    def _put(self, target: str, data: bytes) -> None:
        self._blob(target).upload_blob(data, length=len(data), overwrite=True)

    def _send(self, target: str, stage: BinaryIO, size: int, fence: Fence) -> None:
        blob, token = self._blob(target), secrets.token_hex(8)

        def send(number: int, part: bytes) -> BlobBlock:
            block = BlobBlock(block_id=b64encode(f"{token}-{number:06d}".encode()).decode())
            blob.stage_block(block.id, part, length=len(part))
            return block

        blocks = in_parts(stage, size, MOST_BLOCKS, send)
        fence()
        blob.commit_block_list(blocks)

    def _find(self, target: str) -> tuple[int, Any] | None:
        try:
            found = self._blob(target).get_blob_properties()
        except exceptions.ResourceNotFoundError:
            return None
        return int(found.size), found

    def _reader(self, target: str, version: Any) -> Ask:
        pinned = {"etag": version.etag, "match_condition": MatchConditions.IfNotModified}
        blob = self._blob(target)
        return lambda start, end: blob.download_blob(start, end - start, **pinned).readall()

    def _delete(self, target: str) -> None:
        with suppress(exceptions.ResourceNotFoundError):
            self._blob(target).delete_blob()

    def _listed(self, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
        for found in self._client.get_container_client(bucket).list_blobs(name_starts_with=prefix, include=["metadata"]):
            if (found.metadata or {}).get("hdi_isfolder") != "true":  # accounts with a hierarchical namespace list folders too
                yield found.name, int(found.size)

    def _blob(self, target: str) -> Any:
        container, key = split(target)
        return self._client.get_blob_client(container, key)

    def _error(self, error: Exception, target: str) -> KeenPipelineError:
        if isinstance(error, exceptions.ResourceNotFoundError):
            return for_a_person(target, "there is no such container")
        if not isinstance(error, exceptions.HttpResponseError):
            return unavailable(target, error)
        code = getattr(error, "error_code", None) or error.status_code or type(error).__name__
        code = cleaned(getattr(code, "value", code))
        signs_nothing = isinstance(error, exceptions.ClientAuthenticationError)  # the key, and nothing was asked
        return refused(target, 403 if signs_nothing else error.status_code or 500, code, _KEYS, error)


def _new_client(root: str, options: Options) -> BlobServiceClient:
    settings: dict[str, Any] = {
        "retry_policy": ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=4),
        "connection_timeout": 20,  # seconds
        "read_timeout": 60,  # seconds, of each wait for an answer
        "max_single_get_size": remote.READ_BYTES,
        "max_chunk_get_size": remote.READ_BYTES,
        "max_single_put_size": remote.PART_BYTES,
    }
    connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    account = options.get("account") or os.environ.get("AZURE_STORAGE_ACCOUNT")
    endpoint = options.get("endpoint") or (f"https://{account}.blob.core.windows.net" if account else None)
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
