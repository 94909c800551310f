"""What a storage, the way to it or this machine does wrong: a whole file or a named error, and nothing left."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from keen_pipeline.client import KeenClient, RenewingResults
from keen_pipeline.collection import Encoding
from keen_pipeline.errors import (
    ClaimLostError,
    ConfigurationError,
    KeenPipelineError,
    RetryableError,
    ServiceUnavailableError,
    TransferError,
    VerificationError,
)
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.parquet.convert import Conversion
from keen_pipeline.landing.storages import local, remote
from keen_pipeline.landing.storages.errors import for_a_person
from keen_pipeline.landing.transfer.direct import TemporaryFile
from keen_pipeline_tests.contract.storages.places import NOW, TARGET, Place, behind, outcome, publish
from keen_pipeline_tests.landing.conftest import BytesSource
from keen_pipeline_tests.servers import faults, proxy
from keen_pipeline_tests.servers.faults import FaultServer
from keen_pipeline_tests.servers.proxy import HttpProxy

PART = 5 * 1024 * 1024  # S3's least
pytestmark = pytest.mark.usefixtures("quick")
OLD, NEW = b"old", b"n" * (2 * PART + 1)


@dataclass(frozen=True)
class Row:
    """`fault` of the way to the service, and what comes of it. `old`: the file there must be the old one. `aborted`: nothing is
    left at once; else the client never heard of an upload, or nothing comes through."""

    fault: Callable[[], proxy.Fault]
    expected: type[KeenPipelineError] | None
    said: str = ""
    old: bool = True
    aborted: bool = True


ROWS = {
    "every write is answered by 500": Row(lambda: proxy.only(proxy.refused(500, "InternalError")), ServiceUnavailableError),
    "every write is answered by 503": Row(lambda: proxy.only(proxy.refused(503, "SlowDown")), ServiceUnavailableError),
    "a later write is answered by 500": Row(lambda: proxy.after(2, proxy.refused(500, "InternalError")), ServiceUnavailableError),
    "the first write is answered by 503": Row(lambda: proxy.first(1, proxy.only(proxy.refused(503, "SlowDown"))), None),
    "every write is refused": Row(lambda: proxy.only(proxy.refused(403, "AccessDenied")), ConfigurationError, "access was refused"),
    "a later write is refused": Row(lambda: proxy.after(2, proxy.refused(403, "AccessDenied")), ConfigurationError, "access was"),
    "the bucket is gone": Row(lambda: proxy.only(proxy.refused(404, "NoSuchBucket")), ConfigurationError, "there is no such"),
    "a code full of escapes": Row(lambda: proxy.only(proxy.refused(500, "\x1b[31m" + "x" * 5000)), ServiceUnavailableError),
    "every connection is reset": Row(lambda: proxy.cut, ServiceUnavailableError, aborted=False),
    "every write is reset": Row(lambda: proxy.only(proxy.cut), ServiceUnavailableError),
    "the first write is reset": Row(lambda: proxy.first(1, proxy.only(proxy.cut)), None),
    "the answers of all writes are lost": Row(
        lambda: proxy.only(proxy.answer_lost), ServiceUnavailableError, old=False, aborted=False
    ),
    "the last answers are lost": Row(lambda: proxy.after(3, proxy.answer_lost), ServiceUnavailableError, old=False, aborted=False),
}


@pytest.mark.parametrize("place", ["s3", "gcs", "azure"], indirect=True)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_whole_file_or_named_error_whatever_the_way_does(place: Place, between: HttpProxy, row: Row) -> None:
    publish(place.destination(), OLD)
    destination = behind(place, between)
    between.fault = row.fault()
    error = outcome(destination, NEW)
    files = place.files()
    assert list(files) == [TARGET]
    if error is None:
        assert files[TARGET] == NEW
        assert row.expected is None or not row.old
    else:
        assert files[TARGET] == OLD or (not row.old and files[TARGET] == NEW)
        assert isinstance(error, row.expected or ())
        assert row.said in str(error)
        assert files[TARGET] == OLD or "nothing was published" not in str(error)
        assert destination.uri.partition("/test_")[0] in str(error)  # its name, if shortened
    if row.aborted:
        assert place.unfinished() == 0
    place.destination().remove_leftovers(NOW)
    assert place.unfinished() == 0


@pytest.mark.parametrize("place", ["s3", "gcs", "azure"], indirect=True)
def test_reading_that_breaks_is_named_and_can_be_tried_again(
    place: Place, between: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "READ_BYTES", 64 * 1024)
    monkeypatch.setattr("smart_open.s3.time.sleep", lambda _: None)
    publish(place.destination(), NEW)
    destination = behind(place, between)
    with destination.open(f"{destination.uri}/{TARGET}") as file:
        assert file.read(10) == NEW[:10]
        between.fault = proxy.cut
        if "s3" not in place.root:  # which has sent all in one answer already
            with pytest.raises(TransferError, match="reading it failed"):
                file.read()
    with pytest.raises(RetryableError):
        destination.open(f"{destination.uri}/{TARGET}")


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_reader_of_s3_that_is_cut_goes_on_in_the_pinned_version_alone(
    place: Place, between: HttpProxy, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smart_open.s3.time.sleep", lambda _: None)
    publish(place.destination(), NEW)

    def half(to: proxy.Handler) -> bool:
        if to.command != "GET":
            return False
        status, headers, data = to.ask()
        if replaced:
            publish(place.destination(), b"m" * len(NEW))
        to.answer(status, headers, data[: len(data) // 2])
        to.close_connection = True
        return True

    destination = behind(place, between)
    between.fault = proxy.first(1, half)
    with destination.open(f"{destination.uri}/{TARGET}") as file:
        if replaced:
            with pytest.raises(TransferError, match="or it was replaced meanwhile"):
                file.read()
        else:
            assert file.read() == NEW


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_upload_is_aborted_when_what_was_staged_goes_elsewhere_and_fails(place: Place) -> None:
    def lost() -> None:
        raise ClaimLostError("another process has it")

    storage, root = place.destination()._storage, place.destination().uri
    with storage.stage(f"{root}/{TARGET}") as stage:
        stage.write(NEW)
        with pytest.raises(ClaimLostError):
            storage.publish(stage, f"{root}/_quarantine/{TARGET}", fence=lost)
    assert place.unfinished() == 0
    assert place.files() == {}


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_PROFILE", "nope", "ProfileNotFound"),
        ("AWS_DEFAULT_REGION", "eu west 1!", "InvalidRegionError"),
        ("AWS_ENDPOINT_URL_S3", "nonsense", "ValueError"),
    ],
)
def test_settings_of_aws_that_can_not_be_used_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=rf"destination s3://bucket/x: its settings can't be used \({said}\)"):
        FileDestination("s3://bucket/x")


def test_key_of_azure_that_is_none_is_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "not-base64!")
    options = {"endpoint": "http://127.0.0.1:9", "account": "lander"}
    with pytest.raises(ConfigurationError, match=r"access was refused \(AzureSigningError\)\nCheck the AZURE_STORAGE_"):
        FileDestination("azure://c/x", transport=options).probe()


def test_no_credentials_of_aws_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    options = {"endpoint": "http://127.0.0.1:9", "region": "us-east-1"}
    with pytest.raises(ConfigurationError, match="no credentials"):
        FileDestination("s3://bucket/x", transport=options).probe()


@pytest.mark.parametrize(
    ("root", "options"),
    [
        ("s3://bucket/x", {"endpoint": "http://nowhere.invalid", "region": "us-east-1"}),
        ("gs://bucket/x", {"endpoint": "http://nowhere.invalid"}),
        ("azure://container/x", {"endpoint": "http://nowhere.invalid/a", "account": "a"}),
    ],
)
def test_name_that_does_not_resolve_may_pass(root: str, options: dict[str, Any]) -> None:
    with pytest.raises(ServiceUnavailableError, match=f"destination {root}"):
        FileDestination(root, transport=options).probe()


LOCAL = {
    "write": (local.StagedFile, "write", ConfigurationError, errno.ENOSPC),
    "write over the quota": (local.StagedFile, "write", ConfigurationError, errno.EDQUOT),
    "write on a sick disk": (local.StagedFile, "write", ServiceUnavailableError, errno.EIO),
    "fsync": (os, "fsync", ServiceUnavailableError, errno.EIO),
    "fsync of a full disk": (os, "fsync", ConfigurationError, errno.ENOSPC),
    "replace": (os, "replace", ConfigurationError, errno.EACCES),
    "replace of a file that is gone": (os, "replace", ServiceUnavailableError, errno.ENOENT),
    "mkdir": (Path, "mkdir", ConfigurationError, errno.EROFS),
    "stage": (local, "_Stage", ServiceUnavailableError, errno.EMFILE),
}


@pytest.mark.parametrize(("where", "name", "expected", "number"), LOCAL.values(), ids=LOCAL)
def test_local_disk_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, expected: type[KeenPipelineError], number: int
) -> None:
    destination = FileDestination(str(tmp_path / "landed"))
    if name != "mkdir":
        publish(destination, OLD)
    before = sorted(tmp_path.rglob("*"))

    def failing(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(where, name, failing)
        error = outcome(destination, NEW)
    assert isinstance(error, expected)
    assert os.strerror(number) in str(error) or number == errno.ENOENT
    assert f"destination {tmp_path}"[:40] in str(error)
    assert sorted(tmp_path.rglob("*")) == before


def land(place: Place) -> None:
    with FaultServer(body=b"a,b\n" + b"1,2\n" * 200_000) as server:
        server.results = [faults.whole()]
        results = RenewingResults(KeenClient(server.url, "P", read_key="k"), "purchases", "e1", SecretUrl(server.results_url))
        destination = place.destination()
        destination.land(results, destination.target_uri("purchases", "2026-01-01"), extraction_id="e1")


@pytest.mark.parametrize("place", ["s3", "gcs", "azure", "sftp"], indirect=True)
def test_full_temporary_folder_is_named_and_not_the_storage(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.destination()
    said = r"temporary folder \S+ \(TMPDIR\) is full \(No space left on device\)"
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: PTH123, SIM115
        patched.setattr(TemporaryFile, "truncate", lambda *_: 0)  # which that device has not
        with pytest.raises(ConfigurationError, match=said) as raised:
            land(place)
        with pytest.raises(ConfigurationError, match=said):
            publish(place.destination(), NEW)
    assert "destination" not in str(raised.value)
    assert "set TMPDIR" in str(raised.value)
    assert place.files() == {}
    assert place.unfinished() == 0


@pytest.mark.parametrize("place", ["s3", "sftp"], indirect=True)
def test_temporary_folder_that_is_missing_is_named(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place.destination()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match=r"missing \(TMPDIR\) can't be written"):
        land(place)


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_quarantine_that_can_not_be_written_does_not_hide_why(place: Place) -> None:
    place.folder().mkdir()
    (place.folder() / "_quarantine").write_bytes(b"a file")
    with FaultServer(body=b'a,b\n1,"2\n') as server:
        server.results = [faults.whole()]
        results = RenewingResults(KeenClient(server.url, "P", read_key="k"), "purchases", "e1", SecretUrl(server.results_url))
        destination = place.destination()
        with pytest.raises(VerificationError, match=r"never ends.*could not be kept either.*_quarantine") as raised:
            destination.land(results, destination.target_uri("purchases", "2026-01-01"), extraction_id="e1")
    assert raised.value.quarantined is None
    assert place.files() == {"_quarantine": b"a file"}


@pytest.mark.parametrize("encoding", [Encoding.CSV, Encoding.PARQUET])
def test_full_disk_leaves_nothing_in_the_quarantine_without_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: Encoding
) -> None:
    destination = FileDestination(str(tmp_path))
    monkeypatch.setattr(destination._storage, "write", Mock(side_effect=for_a_person("the reason", "it is full")))
    target = destination.target_uri("purchases", "2026-01-01", encoding)
    with pytest.raises(VerificationError, match=r"never ends.*could not be kept either.*full") as raised:
        destination.land(BytesSource(b'a,b\n1,"2\n'), target, extraction_id="e1")
    assert raised.value.quarantined is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_disk_that_fails_while_a_csv_is_given_back_does_not_hide_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = FileDestination(str(tmp_path))
    monkeypatch.setattr(Conversion, "restore", Mock(side_effect=for_a_person("x", "it is full")))
    target = destination.target_uri("purchases", "2026-01-01", Encoding.PARQUET)
    with pytest.raises(VerificationError, match=r"never ends.*could not be kept either.*full"):
        destination.land(BytesSource(b'a,b\n1,"2\n'), target, extraction_id="e1")


def test_disk_that_fails_while_a_landed_file_is_read_is_no_fault_of_the_destination(tmp_path: Path) -> None:
    destination = FileDestination(str(tmp_path))
    publish(destination, OLD)

    with destination.open(f"{tmp_path}/{TARGET}") as whole, destination.open(f"{tmp_path}/{TARGET}") as piece:
        for file in (whole, piece):  # a directory's descriptor can't be read, whatever the disk
            os.dup2(os.open(tmp_path, os.O_RDONLY), file.raw._ask.args[0].fileno())  # type: ignore[attr-defined]
        with pytest.raises(TransferError, match="reading it failed"):
            whole.read()
        with pytest.raises(TransferError, match="reading it failed"):
            piece.read(2)


def test_a_place_that_changes_what_is_written_is_no_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = FileDestination(str(tmp_path))
    write = destination._storage.write
    monkeypatch.setattr(destination._storage, "write", lambda uri, data: write(uri, data + b"\r"))
    with pytest.raises(ConfigurationError, match="a file that was written can't be read back unchanged"):
        destination.probe()
    assert list(tmp_path.iterdir()) == []
