"""Objects of an S3 bucket: one appears with the completion of its upload and not before; small ones go in one request."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

import boto3  # type: ignore[import-untyped]
import botocore.client  # type: ignore[import-untyped]
import smart_open
import urllib3
from botocore import exceptions

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.layout import is_ours
from keen_pipeline.landing.storages import remote
from keen_pipeline.landing.storages.errors import cleaned, for_a_person, refused, unavailable, unreadable
from keen_pipeline.landing.storages.remote import Ask, ObjectStorage, in_parts, read_at, split
from keen_pipeline.landing.storages.storage import Fence, Leftover, Options

ATTEMPTS = 4
"""Of each request."""
MOST_PARTS = 10_000
"""Of an upload."""
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_REPLACED = frozenset({"412", "PreconditionFailed", "NoSuchKey"})  # while it is read
_MISCONFIGURED = (
    *(exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound, exceptions.SSOError),
    *(exceptions.NoRegionError, exceptions.InvalidRegionError, exceptions.ParamValidationError, exceptions.ConfigParseError),
)
_KEYS = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, this machine's clock and the bucket's policy."
_SETTINGS = "Check the destination's URI, AWS_PROFILE, AWS_DEFAULT_REGION and the options region and endpoint."
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion"})
_DENIED = frozenset({"AccessDenied", "ExpiredToken", "InvalidToken"})  # whatever the status, which may be 200
_log = logging.getLogger(__name__)


class S3Storage(ObjectStorage):
    """One bucket, or a prefix of it. Raises ConfigurationError for a profile, region or endpoint that can't be used."""

    _failures = (exceptions.ClientError, exceptions.BotoCoreError, urllib3.exceptions.HTTPError, ValueError, OSError)

    def __init__(self, root: str, options: Options) -> None:
        super().__init__(root, options)
        try:
            self._client = _new_client(options)
        except (exceptions.BotoCoreError, ValueError) as error:
            raise for_a_person(root, f"its settings can't be used ({type(error).__name__})", _SETTINGS) from None

    def _leftovers(self) -> Iterator[Leftover]:
        """Multipart uploads of our keys."""
        bucket, prefix = split(self._root + "/")
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Uploads", ()):
                uri = f"s3://{bucket}/{found['Key']}"
                if is_ours(self._root, uri):
                    upload = {"Bucket": bucket, "Key": found["Key"], "UploadId": found["UploadId"]}
                    yield uri, found["Initiated"].timestamp(), partial(self._abort, upload)

    def _abort(self, upload: Mapping[str, str]) -> None:
        try:
            self._client.abort_multipart_upload(**upload)
        except exceptions.ClientError as error:
            if _code(error) == "NoSuchUpload":
                raise FileNotFoundError(upload["Key"]) from None
            raise

    def _put(self, target: str, data: bytes) -> None:
        parameters = {"client": self._client, "multipart_upload": False}
        with smart_open.open(target, "wb", compression="disable", transport_params=parameters) as file:
            file.write(data)

    def _find(self, target: str) -> tuple[int, Any] | None:
        bucket, key = split(target)
        try:
            found = self._client.head_object(Bucket=bucket, Key=key)
        except exceptions.ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise
        return int(found["ContentLength"]), found["ETag"]

    def _reader(self, target: str, version: Any) -> Ask:
        pinned = {"S3.Client.get_object": {"IfMatch": version}}
        parameters = {"client": self._client, "client_kwargs": pinned, "buffer_size": remote.READ_BYTES}
        return partial(read_at, smart_open.open(target, "rb", compression="disable", transport_params=parameters))

    def _delete(self, target: str) -> None:
        bucket, key = split(target)
        self._client.delete_object(Bucket=bucket, Key=key)

    def _listed(self, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                yield found["Key"], int(found["Size"])

    def _send(self, target: str, stage: BinaryIO, size: int, fence: Fence) -> None:
        bucket, key = split(target)
        begun = self._client.create_multipart_upload(Bucket=bucket, Key=key)
        upload = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}

        def send(number: int, part: bytes) -> dict[str, Any]:
            answer = self._client.upload_part(**upload, PartNumber=number + 1, Body=part)
            checks = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
            return {"PartNumber": number + 1, "ETag": answer["ETag"], **checks}

        try:
            parts = in_parts(stage, size, MOST_PARTS, send)
            fence()
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            try:
                self._abort(upload)
            except self._failures as error:
                _log.warning("an upload of %s could not be aborted (%s); it is when leftovers are", target, type(error).__name__)
            raise

    def _error(self, error: Exception, target: str) -> KeenPipelineError:
        if (wrong := _cause(error, _MISCONFIGURED)) is not None:
            why = "no credentials" if isinstance(wrong, exceptions.NoCredentialsError) else "its settings can't be used"
            return for_a_person(target, f"{why} ({type(wrong).__name__})", f"{_KEYS} {_SETTINGS}")
        answer = _cause(error, exceptions.ClientError)
        if answer is None:
            unreached = isinstance(error, exceptions.EndpointConnectionError)
            return unavailable(target, error, f"The service's address can't be reached. {_SETTINGS}" if unreached else "")
        code, status = _code(answer), int(answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        if code in _REPLACED:
            return unreadable(target, code)
        if code == "NoSuchBucket":
            return for_a_person(target, f"there is no such bucket ({code})")
        if 300 <= status < 400 or code in _ELSEWHERE:
            return for_a_person(target, f"the bucket lies in another region ({code})", _SETTINGS)
        status = 403 if code in _DENIED else status
        return refused(target, status, code, _KEYS if status in (401, 403) else _SETTINGS, answer)


def _cause(error: BaseException | None, kinds: Any) -> Any:
    """The first of some kinds among an error and what smart_open made it of."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__ or error.__context__
    return error


def _code(error: Any) -> str:
    """The service's word for what is wrong."""
    return cleaned(error.response.get("Error", {}).get("Code", ""))


def _new_client(options: Options) -> Any:
    settings: dict[str, Any] = {
        "max_pool_connections": 16,
        "tcp_keepalive": True,
        "connect_timeout": 20,  # seconds
        "read_timeout": 60,  # seconds, of each wait for an answer
        "retries": {"max_attempts": ATTEMPTS, "mode": "standard"},
    }
    endpoint = options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint.startswith("http://"):
        # Without TLS the signature holds a SHA-256 of each body already; a check sum beside it would only cost time.
        settings["request_checksum_calculation"] = "when_required"
    config = botocore.client.Config(**settings)
    session = boto3.session.Session()
    return session.client("s3", config=config, endpoint_url=options.get("endpoint"), region_name=options.get("region"))
