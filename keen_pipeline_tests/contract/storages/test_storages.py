"""What the storages refuse, and what two writers or a reader and a writer of one file can't do to each other."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from keen_pipeline import CsvDestination
from keen_pipeline.client import KeenClient, RenewingResults
from keen_pipeline.errors import ClaimLostError, ConfigurationError, InvalidInputError, ServiceUnavailableError, TransferError
from keen_pipeline.extraction import SecretUrl
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages import remote
from keen_pipeline.landing.storages import sftp as sftp_storage
from keen_pipeline.landing.storages.storage import Storage
from keen_pipeline_tests.contract.storages.places import NOW, TARGET, Place
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.azure import CONTAINER, AzureServer
from keen_pipeline_tests.servers.faults import FaultServer
from keen_pipeline_tests.servers.proxy import http_proxy
from keen_pipeline_tests.servers.sftp import PASSWORD, USER, SftpServer, running_sftp

PART = 256 * 1024
LARGE = 5 * PART + 1
OF_SEVERAL_PARTS = 2 * 5 * 1024 * 1024 + 1


@pytest.fixture(autouse=True)
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a MiB takes several parts and several reads; SeaweedFS, like S3, takes longer parts only."""
    s3 = hasattr(request.node, "callspec") and request.node.callspec.params.get("place") == "s3"
    monkeypatch.setattr(remote, "PART_BYTES", 5 * 1024 * 1024 if s3 else PART)
    monkeypatch.setattr(remote, "READ_BYTES", PART)
    monkeypatch.setattr(sftp_storage, "_PIECE_BYTES", PART // 4)
    monkeypatch.setattr(sftp_storage, "_WINDOW_BYTES", PART)


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
    large = OF_SEVERAL_PARTS if place.root.startswith("s3:") else LARGE
    versions = [letter * (large + size) for size, letter in enumerate((b"a", b"b", b"c"))]
    together = threading.Barrier(len(versions))
    with ThreadPoolExecutor(len(versions)) as threads:
        outcomes = list(threads.map(lambda data: publish(place, data, together), versions))
    assert "published" in outcomes
    assert all(outcome == "published" or "the storage failed" in outcome for outcome in outcomes)
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


def storage_of(place: Place) -> Storage:
    return place.destination()._storage


@pytest.mark.parametrize("size", [0, 5, OF_SEVERAL_PARTS])
def test_fence_that_refuses_leaves_the_old_file_and_nothing_else(place: Place, size: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keen_pipeline")
    publish(place, b"old")
    storage, target = storage_of(place), f"{place.destination().uri}/{TARGET}"

    def lost() -> None:
        raise ClaimLostError("another process has it")

    with pytest.raises(ClaimLostError), storage.stage(target) as stage:  # noqa: PT012 - one landing
        stage.write(b"n" * size)
        storage.publish(stage, target, fence=lost)
    assert place.files() == {TARGET: b"old"}
    assert place.unfinished() == 0
    said = {
        "local": "was not published",
        "sftp": "is aborted",
    }
    kind = "local" if place.is_local else place.root.partition("://")[0]
    assert said.get(kind, "") in caplog.text


@pytest.mark.parametrize("size", [0, 5, OF_SEVERAL_PARTS])
def test_fence_is_asked_once_and_before_the_file_shows(place: Place, size: int) -> None:
    publish(place, b"old")
    storage, target = storage_of(place), f"{place.destination().uri}/{TARGET}"
    seen: list[object] = []

    def fence() -> None:  # what is staged is no file yet for who lists them meanwhile
        seen.extend([place.files()[TARGET], *place.destination().files(TARGET.partition("/")[0])])

    with storage.stage(target) as stage:
        stage.write(b"n" * size)
        storage.publish(stage, target, fence=fence)
    assert seen == [b"old", (TARGET, 3)]
    assert place.files() == {TARGET: b"n" * size}


@pytest.mark.parametrize("size", [5, OF_SEVERAL_PARTS])
@pytest.mark.parametrize("place", ["s3", "gcs", "azure"], indirect=True)
def test_one_request_follows_the_fence(place: Place, size: int) -> None:
    with http_proxy(place.transport["endpoint"]) as proxy:
        destination = FileDestination(place.root, transport={**place.transport, "endpoint": proxy.endpoint})
        storage, target = destination._storage, f"{destination.uri}/{TARGET}"
        asked: list[int] = []
        with storage.stage(target) as stage:
            stage.write(b"n" * size)
            storage.publish(stage, target, fence=lambda: asked.append(len(proxy.changes())))
        assert [len(proxy.changes()) - number for number in asked] == [1], proxy.requests
    assert place.files() == {TARGET: b"n" * size}


def test_landing_proves_its_claim_before_its_file_shows(place: Place) -> None:
    def lost() -> None:
        raise ClaimLostError("another process has it")

    destination = place.destination()
    target = destination.target_uri("purchases", "2026-01-01")
    with FaultServer(body=b"a,b\n1,2\n") as server:
        server.results = [faults.whole()]
        results = RenewingResults(KeenClient(server.url, "P", read_key="k"), "purchases", "e1", SecretUrl(server.results_url))
        with pytest.raises(ClaimLostError, match=r"purchases/2026-01-01\.csv.*another process has it"):
            destination.land(results, target, extraction_id="e1", fence=lost)
    assert place.files() == {}
    assert place.unfinished() == 0


def test_files_below_a_folder_are_listed_with_their_bytes(place: Place) -> None:
    storage, root = storage_of(place), place.destination().uri
    names = {f"_manifests/purchases/2026-01-{day:02d}.csv.json": day for day in range(1, 8)}
    names |= {"_manifests/a+b/2026-01-01-08:00 %25.json": 3, "_manifests.json": 1, "_manifests2/x.json": 1, "purchases/x.csv": 1}
    for name, size in names.items():
        storage.write(f"{root}/{name}", b"x" * size)
    expected = {f"{root}/{name}": size for name, size in names.items() if name.startswith("_manifests/")}
    assert dict(storage.files(f"{root}/_manifests")) == expected
    for uri, size in expected.items():  # what is listed can be read
        with storage.open(uri) as file:
            assert len(file.read()) == size
    assert list(storage.files(f"{root}/_nothing")) == []


@pytest.mark.parametrize("foreign", ["{root}/../x.csv", "{root}/./x.csv", "{root}//x.csv", "{root}/"])
def test_nothing_outside_the_root_is_listed_or_removed(place: Place, foreign: str) -> None:
    root = place.destination().uri
    with pytest.raises(InvalidInputError, match="is not a file below"):
        place.destination().remove(foreign.format(root=root))
    with pytest.raises(InvalidInputError, match="is not a file below"):
        list(place.destination().files(foreign.format(root="x")))


@pytest.mark.parametrize("place", ["local", "sftp"], indirect=True)
def test_symbolic_links_are_not_followed(place: Place, tmp_path: Path) -> None:
    publish(place, b"12345")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"x")
    staged = outside / ".2026-01-01.csv.0123456789abcdef.landing"
    staged.write_bytes(b"x")
    [folder] = {path.parent for path in place.folder().rglob("*.csv")}
    (folder / "folder").symlink_to(outside)
    (folder / "file").symlink_to(outside / "secret")
    root = place.destination().uri
    assert list(storage_of(place).files(f"{root}/purchases")) == [(f"{root}/{TARGET}", 5)]
    assert storage_of(place).remove_leftovers(NOW) == []
    assert staged.exists()


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
        ("sftp://host/x", {"known_hosts": 5}, "known_hosts must be text"),
        ("sftp://user:secret@host/x", {}, "no keys in the URI"),
        ("sftp:///x", {}, "names no bucket, container or host"),
        ("sftp://user@/x", {}, "names no host"),
        ("sftp://host:99999/x", {}, "its port isn't a number between 0 and 65535"),
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
    next(iter(destination._storage._connections)).close()  # type: ignore[attr-defined]
    destination.probe()


def test_sftp_host_that_does_not_answer_can_be_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "known").write_text("")
    with pytest.raises(ServiceUnavailableError, match="the storage failed"):
        FileDestination(f"sftp://{USER}@127.0.0.1:{port}/x", transport={"known_hosts": str(tmp_path / "known")}).probe()


def test_folders_of_an_azure_account_that_has_them_are_no_files(azure: AzureServer) -> None:
    options = {"endpoint": azure.endpoint, "account": "lander"}
    root = f"azure://{CONTAINER}/folders"
    storage = FileDestination(root, transport=options)._storage
    storage.write(f"{root}/_manifests/{TARGET}.json", b"12345")
    with azure.lock:
        azure.put("folders/_manifests/purchases", b"")
        azure.folders.add("folders/_manifests/purchases")
    assert list(storage.files(f"{root}/_manifests")) == [(f"{root}/_manifests/{TARGET}.json", 5)]


def test_azure_key_that_is_wrong_is_said_so(azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "bm90LWl0LTc3MzE=")
    text = refusal(f"azure://{CONTAINER}/x", endpoint=azure.endpoint, account="lander")
    assert "access was refused (AuthenticationFailed)" in text
    assert "bm90LWl0LTc3MzE=" not in text


def test_azure_account_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    assert "no storage account\nSet AZURE_STORAGE_CONNECTION_STRING" in refusal(f"azure://{CONTAINER}/x")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "nonsense")
    assert "does not have the form of a connection string" in refusal(f"azure://{CONTAINER}/x")


def test_bucket_or_container_that_is_missing_is_said_so(azure: AzureServer, gcs: str) -> None:
    assert "no such container" in refusal("azure://nowhere/x", endpoint=azure.endpoint, account="lander")
    assert "no such bucket" in refusal("gs://nowhere-at-all/x", endpoint=gcs)


@pytest.mark.parametrize("place", ["s3", "gcs", "azure"], indirect=True)
def test_file_in_a_bucket_that_is_missing_is_not_said_to_be_missing(place: Place) -> None:
    destination = FileDestination(f"{place.root.partition(':')[0]}://nowhere-at-all/x", transport=place.transport)
    for ask in (destination.exists, destination.open):
        with pytest.raises(ConfigurationError, match=r"no such (bucket|container)"):
            ask(destination.uri_of(TARGET))


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
    packages = {"gs": ("gcs", "google.cloud"), "azure": ("azure", "azure.core"), "sftp": ("sftp", "paramiko")}
    for scheme, (extra, package) in packages.items():
        monkeypatch.setitem(__import__("sys").modules, package, None)
        monkeypatch.delitem(__import__("sys").modules, f"keen_pipeline.landing.storages.{extra}", raising=False)
        assert f"pip install 'keen_pipeline[{extra}]'" in refusal(f"{scheme}://b/x")
