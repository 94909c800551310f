"""Objects of an S3 bucket: an upload is completed only after everything was verified.

The body is also kept in an unnamed temporary file of this machine, which a crash takes with it: for parts to be sent again, and for
what is kept aside elsewhere. An object appears with the completion of its upload and not before; small ones go in one request.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, BinaryIO, cast

import boto3  # type: ignore[import-untyped]
import botocore.client  # type: ignore[import-untyped]
import botocore.exceptions  # type: ignore[import-untyped]
import smart_open
import smart_open.s3

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, ServiceUnavailableError
from keen_pipeline.landing.storages.options import S3Options
from keen_pipeline.landing.storages.remote import reader_of, split
from keen_pipeline.landing.storages.s3_upload import S3Upload, UploadingStage

_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_FORBIDDEN = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "401"})


class S3Storage:
    """One bucket, or a prefix of it."""

    def __init__(self, root: str, options: S3Options) -> None:
        self._root = root
        self._client = _new_client(options)

    @contextmanager
    def stage(self, target: str) -> Iterator[BinaryIO]:
        """An empty file without a name, in this machine's temporary folder; large ones are on their way to S3 as they grow."""
        with tempfile.TemporaryFile(buffering=0) as file:
            stage = UploadingStage(os.dup(file.fileno()), self._upload(target, file.fileno()))
            try:
                with stage, self._translated(target):
                    yield cast("BinaryIO", stage)
            finally:
                with self._translated(target):
                    stage.abort()

    def publish(self, stage: BinaryIO, target: str, *, elsewhere: bool = False) -> None:
        """Make the staged bytes the object at `target`, in one step; `elsewhere`: it was staged for another target."""
        with self._translated(target):
            if isinstance(stage, UploadingStage) and not elsewhere:
                stage.complete()
            else:
                self._upload(target, stage.fileno()).complete(stage.seek(0, os.SEEK_END))

    def write(self, target: str, data: bytes) -> None:
        """A small object in one request."""
        bucket, key = split(target)
        with self._translated(target):
            self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def size(self, target: str) -> int | None:
        """In bytes; None where there is no object."""
        bucket, key = split(target)
        with self._translated(target):
            try:
                return int(self._client.head_object(Bucket=bucket, Key=key)["ContentLength"])
            except botocore.exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise

    def open(self, target: str) -> BinaryIO:
        """A binary reader. Raises FileNotFoundError."""
        if self.size(target) is None:
            raise FileNotFoundError(target)
        return smart_open.open(target, "rb", compression="disable", transport_params={"client": self._client})

    def remove(self, target: str) -> None:
        """Remove one object; nothing happens where there is none."""
        bucket, key = split(target)
        with self._translated(target):
            self._client.delete_object(Bucket=bucket, Key=key)

    def remove_leftovers(self, older_than: timedelta) -> list[str]:
        """Abort the multipart uploads under the root that began before `older_than`; returns their URIs."""
        bucket, prefix = split(self._root + "/")
        oldest = datetime.now(timezone.utc) - older_than
        removed = []
        with self._translated(self._root):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < oldest:
                        self._client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                        removed.append(f"s3://{bucket}/{upload['Key']}")
        return sorted(removed)

    def _upload(self, target: str, descriptor: int) -> S3Upload:
        bucket, key = split(target)
        return S3Upload(self._client, bucket, key, reader_of(descriptor))

    @contextmanager
    def _translated(self, target: str) -> Iterator[None]:
        """Errors of boto3 and smart_open as ours; their texts name buckets and keys of objects, never secrets."""
        try:
            yield
        except KeenPipelineError:
            raise
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError, ValueError, OSError) as error:
            raise translated(error, target) from None


def translated(error: Exception, target: str) -> KeenPipelineError:
    """What the caller does next: fix the configuration (no bucket, no right, no credentials) or try again."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, botocore.exceptions.ClientError):
        if isinstance(cause, (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError)):
            return ConfigurationError(f"destination {target}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        cause = cause.__cause__ or cause.__context__
    code = _code(cause) if isinstance(cause, botocore.exceptions.ClientError) else ""
    if code == "NoSuchBucket":
        return ConfigurationError(f"destination {target}: there is no such bucket")
    if code in _FORBIDDEN:
        return ConfigurationError(
            f"destination {target}: access was refused ({code}); check the AWS_* variables and the bucket's policy"
        )
    return ServiceUnavailableError(
        f"destination {target}: the storage failed ({code or type(error).__name__}); nothing was published"
    )


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _new_client(options: S3Options) -> Any:
    settings: dict[str, Any] = {
        "max_pool_connections": 16,
        "tcp_keepalive": True,
        "retries": {"max_attempts": 4, "mode": "standard"},
    }
    endpoint = options.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint.startswith("http://"):
        # Without TLS the signature holds a SHA-256 of each body already; a check sum beside it would only cost time.
        settings["request_checksum_calculation"] = "when_required"
    config = botocore.client.Config(**settings)
    session = boto3.session.Session()
    return session.client("s3", config=config, endpoint_url=options.endpoint, region_name=options.region)
