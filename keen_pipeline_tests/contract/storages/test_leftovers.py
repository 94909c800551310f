"""What landings that died have left, and what only looks like it."""

from __future__ import annotations

import errno
import os
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages.local import STAGE_SUFFIX
from keen_pipeline_tests.contract.storages.places import NOW, Place, publish
from keen_pipeline_tests.servers.s3 import S3Server

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("place", ["local", "sftp"], indirect=True)
def test_only_names_of_our_own_making_are_leftovers(place: Place) -> None:
    publish(place.destination(), b"12345")
    folder = place.folder() / "purchases"
    others = (".x.landing", "x.0123456789abcdef.landing", ".x.0123456789ABCDEF.landing", ".x.0123456789abcdef.landing.csv", ".swp")
    ours = (".x.csv.0123456789abcdef.landing", ".x.csv.01234567-0123456789abcdef.landing")
    for name in (*others, *ours):
        (folder / name).write_bytes(b"x")
    link = folder / ".link.csv.0123456789abcdef.landing"
    link.symlink_to(folder / "2026-01-01.csv")
    removed = place.destination().remove_leftovers(NOW)
    assert removed == sorted(f"{place.destination().uri}/purchases/{name}" for name in ours)
    assert {path.name for path in folder.iterdir()} == {"2026-01-01.csv", link.name, *others}


@pytest.mark.parametrize("place", ["local", "sftp"], indirect=True)
def test_leftover_that_may_not_be_removed_keeps_no_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        left = place.folder() / name / f".x.csv.{'0' * 16}{STAGE_SUFFIX}"
        left.parent.mkdir(parents=True)
        left.touch()
    remove = os.unlink

    def refuse(path: Any, **options: Any) -> None:
        if "/b/" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        remove(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "remove", refuse)
    assert [uri.removeprefix(place.root).split("/")[1] for uri in place.destination().remove_leftovers(NOW)] == ["a", "c"]
    assert place.unfinished() == 1


def test_clean_up_at_the_root_of_a_bucket_touches_only_keys_of_the_layout(s3: S3Server) -> None:
    client, options = s3.client(), s3.transport
    client.create_bucket(Bucket="shared-bucket")
    ours = ("purchases/2026-01-01.csv", "_slices/purchases/20260101T000000Z_20260102T000000Z.csv.zst")
    ours += ("_quarantine/purchases/2026-01-01.e1.csv",)
    others = ("backups/database.tar", "2026-01-01.csv", "a/b/2026-01-01.csv", "purchases/", "_unknown/purchases/2026-01-01.csv")
    for key in (*ours, *others):
        client.create_multipart_upload(Bucket="shared-bucket", Key=key)
    removed = FileDestination("s3://shared-bucket", transport=options).remove_leftovers(NOW)
    assert removed == sorted(f"s3://shared-bucket/{key}" for key in ours)
    left = client.list_multipart_uploads(Bucket="shared-bucket").get("Uploads", [])
    assert {upload["Key"] for upload in left} == set(others)


def test_upload_that_has_just_begun_or_ended_is_no_leftover(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client, storage = s3.client(), FileDestination(f"{s3.uri}/ends", transport=s3.transport)._storage
    begun = [{"Bucket": s3.bucket, "Key": f"ends/purchases/2026-01-0{day}.csv"} for day in (1, 2, 3, 4)]
    for place in begun:
        place["UploadId"] = client.create_multipart_upload(**place)["UploadId"]
    old, fresh = datetime.now(timezone.utc) - 2 * HOUR, datetime.now(timezone.utc)
    listed = {"Uploads": [{**place, "Initiated": fresh if place is begun[0] else old} for place in begun]}
    real = storage._client.abort_multipart_upload  # type: ignore[attr-defined]

    def abort(**asked: str) -> Any:
        """The second has ended since it was listed; SeaweedFS doesn't mind. The third may not be aborted."""
        for upload, code in ((begun[1], "NoSuchUpload"), (begun[2], "AccessDenied")):
            if asked["UploadId"] == upload["UploadId"]:
                raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "AbortMultipartUpload")
        return real(**asked)

    pages = SimpleNamespace(paginate=lambda **_: [listed])
    monkeypatch.setattr(storage._client, "get_paginator", lambda _: pages)  # type: ignore[attr-defined]
    monkeypatch.setattr(storage._client, "abort_multipart_upload", abort)  # type: ignore[attr-defined]
    assert storage.remove_leftovers(HOUR) == [f"s3://{s3.bucket}/{begun[3]['Key']}"]
    left = client.list_multipart_uploads(Bucket=s3.bucket, Prefix="ends/").get("Uploads", [])
    assert {upload["Key"] for upload in left} == {place["Key"] for place in begun[:3]}
    for place in begun[:3]:
        client.abort_multipart_upload(**place)
