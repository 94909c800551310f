"""What the storages refuse, and what two writers or a reader and a writer of one file can't do to each other."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from keen_pipeline import CsvDestination
from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError, TransferError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages import azure as azure_storage
from keen_pipeline.landing.storages import gcs as gcs_storage
from keen_pipeline.landing.storages import s3 as s3_storage
from keen_pipeline.landing.storages import sftp as sftp_storage
from keen_pipeline_tests.contract.azure import CONTAINER, AzureServer
from keen_pipeline_tests.contract.places import Place
from keen_pipeline_tests.contract.sftp import PASSWORD, USER, SftpServer, running_sftp

PART = 256 * 1024
LARGE = 5 * PART + 1
TARGET = "purchases/2026-01-01.csv"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a MiB takes several parts and several reads."""
    for module in (azure_storage, gcs_storage):
        monkeypatch.setattr(module, "PART_BYTES", PART)
    for module in (azure_storage, gcs_storage, s3_storage):
        monkeypatch.setattr(module, "READ_BYTES", PART)
    monkeypatch.setattr(sftp_storage, "_PIECE_BYTES", PART // 4)


def publish(place: Place, data: bytes, together: threading.Barrier | None = None) -> str:
    """What became of it: `published`, or what was said where it was refused."""
    storage = place.destination()._storage
    target = f"{place.destination().uri}/{TARGET}"
    with storage.stage(target) as stage:
        for start in range(0, len(data), 1 << 20):
            stage.write(data[start : start + (1 << 20)])
        if together is not None:
            together.wait(30)
        try:
            storage.publish(stage, target)
        except ServiceUnavailableError as error:
            return str(error)
    return "published"


def test_two_writers_of_one_file_never_mix(place: Place) -> None:
    versions = [letter * (LARGE + size) for size, letter in enumerate((b"a", b"b", b"c"))]
    together = threading.Barrier(len(versions))
    with ThreadPoolExecutor(len(versions)) as threads:
        outcomes = list(threads.map(lambda data: publish(place, data, together), versions))
    assert "published" in outcomes
    assert all(outcome == "published" or "nothing was published" in outcome for outcome in outcomes)
    assert list(place.files()) == [TARGET]
    assert place.files()[TARGET] in versions
    assert place.unfinished() == 0


def test_reader_that_has_begun_never_goes_on_in_a_newer_file(place: Place) -> None:
    publish(place, b"a" * LARGE)
    with place.destination().open(f"{place.destination().uri}/{TARGET}") as file:
        begun = file.read(10)
        publish(place, b"b" * LARGE)
        try:
            rest = file.read()
        except TransferError:  # its version is gone
            rest = None
    assert begun == b"a" * 10
    assert rest is None or rest == b"a" * (LARGE - 10)


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, LARGE])
def test_every_length_comes_back(place: Place, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    publish(place, data)
    target = f"{place.destination().uri}/{TARGET}"
    assert place.destination().exists(target) == size
    with place.destination().open(target) as file:
        assert file.read() == data
    place.destination().remove(target)
    place.destination().remove(target)
    assert place.files() == {}


def refusal(root: str, **options: object) -> str:
    with pytest.raises(ConfigurationError) as raised:
        FileDestination(root, transport=options).probe()
    assert PASSWORD not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("root", "options", "said"),
    [
        ("sftp://host/x", {"timeout_seconds": "soon"}, "timeout_seconds must be a number of seconds"),
        ("sftp://host/x", {"timeout_seconds": 0}, "timeout_seconds must lie between 1 and 3600"),
        ("sftp://host/x", {"known_hosts": 5}, "known_hosts must be a text"),
        ("sftp://user:secret@host/x", {}, "no keys in the URI"),
        ("sftp:///x", {}, "names no host"),
        ("s3://bucket/x", {"endpoint": "127.0.0.1:9000"}, "endpoint must be an http:// or https:// address"),
        ("s3://bucket/x", {"endpoint": "https://key:secret@host"}, "address without keys in it"),
        (
            "s3://bucket/x",
            {"aws_secret_access_key": "secret"},
            "unknown transport options aws_secret_access_key; it takes endpoint",
        ),
        ("gs://bucket/x", {"region": "eu"}, "unknown transport options region; it takes endpoint, project"),
        ("/tmp/x", {"endpoint": "http://x"}, "unknown transport options endpoint; it takes none"),
    ],
)
def test_wrong_option_is_refused_before_anything_is_asked(root: str, options: dict[str, object], said: str) -> None:
    text = refusal(root, **options)
    assert said in text
    assert "secret@" not in text


def test_sftp_server_that_is_not_known_is_refused(sftp: SftpServer, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    assert "not in the file of known hosts" in refusal(sftp.uri, known_hosts=str(tmp_path / "empty"))
    assert "no file of known hosts" in refusal(sftp.uri, known_hosts=str(tmp_path / "missing"))
    other = paramiko.ECDSAKey.generate()
    (tmp_path / "other").write_text(f"[127.0.0.1]:{sftp.port} {other.get_name()} {other.get_base64()}\n")
    assert "another key" in refusal(sftp.uri, known_hosts=str(tmp_path / "other"))


def test_sftp_password_that_is_wrong_is_said_so(sftp: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEN_PIPELINE_SFTP_PASSWORD", "not-it-7731")
    text = refusal(sftp.uri, **sftp.transport)
    assert "refuses this user" in text
    assert "not-it-7731" not in text


def test_sftp_server_that_can_not_replace_in_one_step_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    with running_sftp(tmp_path, replaces=False) as server:
        (server.folder / "old").write_bytes(b"old")
        assert "posix-rename@openssh.com" in refusal(server.uri, **server.transport)
        assert [path.name for path in server.folder.iterdir()] == ["old"]


def test_sftp_connection_that_broke_is_made_again(sftp: SftpServer) -> None:
    destination = FileDestination(f"{sftp.uri}/again", transport=sftp.transport)
    destination.probe()
    destination._storage._connection.close()  # type: ignore[attr-defined]
    destination.probe()


def test_sftp_host_that_does_not_answer_can_be_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "known").write_text("")
    with pytest.raises(ServiceUnavailableError, match="the storage failed"):
        FileDestination(f"sftp://{USER}@127.0.0.1:{port}/x", transport={"known_hosts": str(tmp_path / "known")}).probe()


def test_azure_key_that_is_wrong_is_said_so(azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "bm90LWl0LTc3MzE=")
    text = refusal(f"azure://{CONTAINER}/x", endpoint=azure.endpoint, account="lander")
    assert "access was refused (AuthenticationFailed)" in text
    assert "bm90LWl0LTc3MzE=" not in text


def test_azure_account_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    assert "no storage account; set AZURE_STORAGE_CONNECTION_STRING" in refusal(f"azure://{CONTAINER}/x")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "nonsense")
    assert "does not have the form of a connection string" in refusal(f"azure://{CONTAINER}/x")


def test_bucket_or_container_that_is_missing_is_said_so(azure: AzureServer, gcs: str) -> None:
    assert "no such container" in refusal("azure://nowhere/x", endpoint=azure.endpoint, account="lander")
    assert "no such bucket" in refusal("gs://nowhere-at-all/x", endpoint=gcs)
    with pytest.raises(ConfigurationError, match="no such bucket"):
        FileDestination("gs://nowhere-at-all/x", transport={"endpoint": gcs}).remove_leftovers()


def test_options_of_the_resource_or_the_environment(
    azure: AzureServer, sftp: SftpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {"endpoint": azure.endpoint, "account": "lander"}
    CsvDestination(uri=f"azure://{CONTAINER}/resource", options=options).open().probe()
    monkeypatch.setenv("KEEN_PIPELINE_DESTINATION", f"{sftp.uri}/environment")
    monkeypatch.setenv("KEEN_PIPELINE_DESTINATION_OPTIONS", f'{{"known_hosts": "{sftp.known_hosts}", "timeout_seconds": 20}}')
    CsvDestination().open().probe()
    CsvDestination(uri=str(tmp_path)).open().probe()
    monkeypatch.setenv("KEEN_PIPELINE_DESTINATION_OPTIONS", '{"know_hosts": "x"}')
    with pytest.raises(ConfigurationError, match="unknown transport options know_hosts"):
        CsvDestination().open()


def test_missing_extra_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for root, extra, package in (
        ("gs://b/x", "gcs", "google.cloud"),
        ("azure://c/x", "azure", "azure.core"),
        ("sftp://h/x", "sftp", "paramiko"),
    ):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        monkeypatch.delitem(__import__("sys").modules, f"keen_pipeline.landing.storages.{extra}", raising=False)
        assert f"pip install 'keen_pipeline[{extra}]'" in refusal(root)
