"""One suite over every kind of storage: whole files or none, whatever happens, and nothing left behind."""

from __future__ import annotations

import gzip
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.client import KeenClient, RenewingResults
from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, InvalidInputError, ServiceUnavailableError, TransferError, VerificationError
from keen_pipeline.extraction import Landing, SecretUrl
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.stored import zstandard
from keen_pipeline.landing.layout import collection_folder, file_path, list_path
from keen_pipeline.landing.storages.remote import PART_BYTES
from keen_pipeline_tests.contract.storages.places import NOW, Place
from keen_pipeline_tests.landing.conftest import example
from keen_pipeline_tests.memory import peak_mib
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import Behaviour, FaultServer, document
from keen_pipeline_tests.servers.s3 import S3Server

FORK = multiprocessing.get_context("spawn")
OLD = b"a,b\n1,2\n"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(body=example(3000)) as running:
        yield running


def source(server: FaultServer, results_url: str | None = None) -> RenewingResults:
    client = KeenClient(server.url, "P", read_key="k", read_timeout=20)
    return RenewingResults(client, "purchases", "e1", SecretUrl(results_url or server.results_url))


def land(
    place: Place, server: FaultServer, *results: Behaviour, key: str = "2026-01-01", encoding: Encoding = Encoding.CSV
) -> Landing:
    server.results = results
    server.api = [document({"_id": "e1", "status": "complete", "results_url": server.results_url})]
    destination = place.destination()
    return destination.land(source(server), destination.target_uri("purchases", key, encoding), extraction_id="e1")


def land_in_child(root: str, transport: dict[str, Any], url: str, results_url: str, peak: Any) -> None:
    """Run in a process of its own; `peak` gets its highest resident memory in MiB before and after."""
    client = KeenClient(url, "P", read_key="k")
    destination = FileDestination(root, transport=transport)
    destination.probe()
    before = peak_mib()
    results = RenewingResults(client, "purchases", "e1", SecretUrl(results_url))
    destination.land(results, destination.target_uri("purchases", "2026-01-01"), extraction_id="e1")
    peak.send((before, peak_mib()))


def child(place: Place, server: FaultServer) -> tuple[Any, Any]:
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=land_in_child, args=(place.root, place.transport, server.url, server.results_url, send))
    process.start()
    return process, receive


def test_landing_replaces_the_older_file(place: Place, server: FaultServer) -> None:
    new, server.body = server.body, OLD
    land(place, server, faults.whole())
    assert place.files() == {"purchases/2026-01-01.csv": OLD}
    server.body = new
    landing = land(place, server, faults.whole())
    assert place.files() == {"purchases/2026-01-01.csv": new}
    destination = place.destination()
    assert destination.exists(landing.uri) == landing.stored_bytes == len(new)
    with destination.open(landing.uri) as file:
        assert file.read() == new
    assert place.unfinished() == 0


def test_what_is_not_there_is_said_so(place: Place) -> None:
    destination = place.destination()
    missing = destination.target_uri("purchases", "2026-01-01")
    assert destination.exists(missing) is None
    with pytest.raises(FileNotFoundError):
        destination.open(missing)


@pytest.mark.parametrize("key", ["2026-01-01-08:00", "20260101T000000Z_20260102T000000Z", "a+b"])
def test_every_partition_key_comes_back(place: Place, server: FaultServer, key: str) -> None:
    landing = land(place, server, faults.whole(), key=key)
    assert list(place.files()) == [f"purchases/{key}.csv"]
    assert place.destination().exists(landing.uri) == len(server.body)


@pytest.mark.parametrize("encoding", [Encoding.CSV_GZ, Encoding.CSV_ZST])
def test_compressed_file_unfolds_to_the_csv(place: Place, server: FaultServer, encoding: Encoding) -> None:
    landing = land(place, server, faults.whole(), encoding=encoding)
    stored = place.files()[f"purchases/2026-01-01.{encoding.value}"]
    assert (gzip.decompress(stored) if encoding is Encoding.CSV_GZ else zstandard().decompress(stored)) == server.body
    assert (landing.bytes, landing.stored_bytes) == (len(server.body), len(stored))
    with place.destination().open(landing.uri) as file:
        assert file.read() == stored


def test_parquet_file_holds_the_records_of_the_csv(place: Place, server: FaultServer) -> None:
    from pyarrow import BufferReader, parquet

    landing = land(place, server, faults.whole(), encoding=Encoding.PARQUET)
    stored = place.files()["purchases/2026-01-01.parquet"]
    assert parquet.read_table(BufferReader(stored)).num_rows == landing.records == 3000
    assert (landing.bytes, landing.stored_bytes) == (len(server.body), len(stored))


def test_file_of_several_parts(place: Place, server: FaultServer) -> None:
    piece = b"1,2\n" * 250_000
    times = PART_BYTES * 2 // len(piece) + 1
    landing = land(place, server, faults.generated(piece, times))
    assert place.files() == {"purchases/2026-01-01.csv": b"a,b\n" + piece * times}
    assert landing.records == 250_000 * times
    assert place.unfinished() == 0


def test_reader_sees_the_old_file_until_the_new_one_is_whole(place: Place, server: FaultServer) -> None:
    new, server.body = server.body, OLD
    landing = land(place, server, faults.whole())
    server.body = new
    halfway, go_on = threading.Event(), threading.Event()

    def in_two_halves(to: faults.Exchange) -> None:
        body = to.ranged()
        to.sock.sendall(body[:50_000])
        halfway.set()
        assert go_on.wait(20)
        to.sock.sendall(body[50_000:])

    thread = threading.Thread(target=land, args=(place, server, in_two_halves))
    thread.start()
    assert halfway.wait(20)
    with place.destination().open(landing.uri) as file:
        assert file.read() == OLD
    go_on.set()
    thread.join(30)
    assert place.files() == {"purchases/2026-01-01.csv": new}


def test_failed_transfer_leaves_the_older_file_and_nothing_else(place: Place, server: FaultServer) -> None:
    new, server.body = server.body, OLD
    land(place, server, faults.whole())
    server.body = new
    with pytest.raises(TransferError):
        land(place, server, faults.cut(0))
    assert place.files() == {"purchases/2026-01-01.csv": OLD}
    assert place.unfinished() == 0


def test_refused_file_is_kept_aside_with_its_reason(place: Place, server: FaultServer) -> None:
    server.body = b'a,b\n1,"2\n'
    with pytest.raises(VerificationError) as raised:
        land(place, server, faults.whole())
    files = place.files()
    kept = "_quarantine/purchases/2026-01-01.e1.csv"
    assert raised.value.quarantined == f"{place.destination().uri}/{kept}"
    assert sorted(files) == [kept, kept + ".reason.txt"]
    assert files[kept] == server.body
    assert b"record 1 begins a quoted field that never ends" in files[kept + ".reason.txt"]


def test_broken_publishing_never_shows_a_part(place: Place, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.body = OLD
    landing = land(place, server, faults.whole())
    storage = place.destination()._storage
    pread = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if offset >= 2 * PART_BYTES:
            raise OSError(5, "Input/output error")
        return pread(descriptor, length, offset)

    def not_synced(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    # The disk under the stage fails after two parts of an upload, or in the sync before a rename.
    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr(os, "fsync", not_synced)
    with pytest.raises((OSError, ServiceUnavailableError)), storage.stage(landing.uri) as stage:  # noqa: PT012 - one landing
        for _ in range(3):
            stage.write(bytes(PART_BYTES))
        storage.publish(stage, landing.uri)
    assert place.files() == {"purchases/2026-01-01.csv": OLD}
    assert place.unfinished() == 0


def test_transfer_that_fails_after_several_parts_shows_none_of_them(place: Place, server: FaultServer) -> None:
    server.body = OLD
    land(place, server, faults.whole())
    server.body = b"a,b\n" + b"1,2\n" * (3 * PART_BYTES // 4)
    with pytest.raises(TransferError):
        land(place, server, faults.cut(len(server.body) - 5), faults.cut(0))
    assert place.files() == {"purchases/2026-01-01.csv": OLD}
    assert place.unfinished() == 0


def test_file_begun_anew_after_several_parts_is_whole(place: Place, server: FaultServer) -> None:
    server.body = b"a,b\n" + b"1,2\n" * (3 * PART_BYTES // 4)
    new = b"a,b\n" + b"3,4\n" * (2 * PART_BYTES // 4)
    land(place, server, faults.cut(len(server.body) - 5), faults.changed(new))
    assert place.files() == {"purchases/2026-01-01.csv": new}
    assert place.unfinished() == 0


def test_killed_landing_leaves_the_older_file_and_its_leftover_is_removed_later(place: Place, server: FaultServer) -> None:
    if not place.leftovers:
        assert place.destination().remove_leftovers(NOW) == []
        return
    server.body = OLD
    land(place, server, faults.whole())
    piece = b"1,2\n" * 250_000
    server.results = [faults.generated(piece, 60)]  # what is staged begins when the download is over
    asked = len(server.requests)
    process, _ = child(place, server)
    deadline = time.monotonic() + 60
    # Before it asks for the results the child writes and removes a probe, which is unfinished for a moment too.
    while len(server.requests) == asked or place.unfinished() == 0:
        assert process.is_alive(), "the child ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert place.files()["purchases/2026-01-01.csv"] == OLD
    assert place.unfinished() == 1
    destination = place.destination()
    assert destination.remove_leftovers(timedelta(hours=1)) == []
    assert len(destination.remove_leftovers(NOW)) == 1
    assert place.files() == {"purchases/2026-01-01.csv": OLD}
    assert place.unfinished() == 0


def test_leftovers_are_never_landed_files(place: Place, server: FaultServer) -> None:
    land(place, server, faults.whole())
    assert place.destination().remove_leftovers(NOW) == []
    assert place.files() == {"purchases/2026-01-01.csv": server.body}


def test_memory_of_a_landing_does_not_grow_with_the_file(place: Place, server: FaultServer) -> None:
    server.results = [faults.generated(b'1,"two, and more"\n' * 50_000, 120)]
    process, peak = child(place, server)
    assert peak.poll(90), "the child sent nothing"
    before, after = peak.recv()
    process.join(30)
    assert place.destination().exists(place.destination().target_uri("purchases", "2026-01-01")) == 4 + 18 * 50_000 * 120
    assert after - before <= 64


def test_landings_of_one_target_at_once_end_with_one_of_their_files(place: Place) -> None:
    """Of four bodies of different lengths, each of several pieces; every landing proves its own."""
    bodies = [b"a,b\n" + f"{number},{number}\n".encode() * (200_000 + number) for number in range(4)]
    destination = place.destination()
    target = destination.target_uri("purchases", "2026-01-01")
    together = threading.Barrier(len(bodies))

    def one(body: bytes) -> tuple[str, str]:
        with FaultServer(body=body) as server:
            server.results = [faults.whole()]
            together.wait(20)
            return hashlib.sha256(body).hexdigest(), destination.land(source(server), target, extraction_id="e1").sha256

    with ThreadPoolExecutor(len(bodies)) as threads:
        outcomes = list(threads.map(one, bodies))
    assert all(sent == landed for sent, landed in outcomes)
    assert list(place.files()) == ["purchases/2026-01-01.csv"]
    assert place.files()["purchases/2026-01-01.csv"] in bodies
    assert place.unfinished() == 0


def test_probe_leaves_nothing(place: Place) -> None:
    place.destination().probe()
    assert place.files() == {}


def test_unknown_transport_option_is_refused(place: Place) -> None:
    with pytest.raises(ConfigurationError, match="unknown transport options endpont"):
        FileDestination(place.root, transport={**place.transport, "endpont": "x"})


def test_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="file"):
        FileDestination(str(tmp_path / "file")).probe()


def test_missing_bucket_is_said_so(s3: S3Server) -> None:
    # Not by the probe: SeaweedFS makes a bucket for whoever writes to it as its administrator.
    with pytest.raises(ConfigurationError, match="no such bucket"):
        FileDestination("s3://nowhere-at-all", transport=s3.transport).remove_leftovers()


def test_wrong_key_is_said_so_without_it(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-it-7731")
    with pytest.raises(ConfigurationError, match="access was refused") as raised:
        FileDestination(s3.uri, transport=s3.transport).probe()
    assert "not-it-7731" not in str(raised.value)


def test_endpoint_may_come_from_the_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    FileDestination(f"{s3.uri}/from-environment").probe()


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://key:secret@bucket/x", " ", "hdfs://x/y"])
def test_place_that_cant_be_served_is_refused_at_once(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="destination") as raised:
        FileDestination(uri)
    assert "secret" not in str(raised.value)


NAMES = ["..", ".", "../x", "a/../../b", "a\\..\\b", "%2E.", "x%2Fy", "100%", "user:signup", "Sign Ups?#"]


@pytest.mark.parametrize("collection", NAMES)
def test_no_collections_name_leads_out_of_its_folder(collection: str, place: Place) -> None:
    destination = place.destination()
    for key in ("2026-01-01", "2026-01-01-08:00+0100"):
        destination.write(file_path(collection, key), key.encode())
        assert destination.read(file_path(collection, key), 100) == key.encode()
    folder = collection_folder(collection)
    listed = list(destination.files(folder))
    assert sorted(size for _, size in listed) == [10, 21]
    assert {destination.read(path, 100).decode() for path, _ in listed} == {"2026-01-01", "2026-01-01-08:00+0100"}
    assert len({name.rpartition("/")[0] for name in place.files()}) == 1
    assert {name.rpartition("/")[2] for name in place.files()} == {"2026-01-01.csv", "2026-01-01-08:00+0100.csv"}
    assert all(name.count("/") == 1 and "\\" not in name for name in place.files())


def test_name_that_no_landing_gives_hides_no_other_file(place: Place) -> None:
    destination = place.destination()
    destination.write("purchases/2026-01-01.csv", b"a")
    keeps_keys = destination.uri.startswith(("gs:", "azure:"))
    for name in ["\u202e.csv", *(["a//b.csv"] if keeps_keys else [])]:
        destination.write(f"purchases/{name}", b"b")
    assert list(destination.files("purchases")) == [("purchases/2026-01-01.csv", 1)]


@pytest.mark.parametrize("data", [b"[1,", b"{}", b"\xff", b"", b"[" * 100_000])
def test_list_that_is_none_is_said_so(tmp_path: Path, data: bytes) -> None:
    destination = FileDestination(str(tmp_path))
    destination.write(list_path("purchases", "body:user", "latest"), data)
    with pytest.raises(InvalidInputError, match=r"body%3Auser.json isn't the list that was written there; materialize it again"):
        destination.read_list("purchases", "body:user", "latest")


def test_no_two_collections_share_a_folder(place: Place) -> None:
    for collection in [*NAMES, "x/y", "a/b", "a%2Fb"]:
        place.destination().write(file_path(collection, "2026-01-01"), b"a")
    assert len(place.files()) == len(NAMES) + 3


@pytest.mark.parametrize("prefix", ["a b", "größe/東京", "100%25", "a%20b", "x+y&z=(1),'"])
def test_prefix_of_a_root_may_be_of_any_letters(prefix: str, place: Place) -> None:
    destination = FileDestination(f"{place.root}/{prefix}", transport=place.transport)
    data = os.urandom(PART_BYTES + 1)
    with destination._storage.stage(destination.uri_of("x/1.csv")) as stage:
        stage.write(data)
        destination._storage.publish(stage, destination.uri_of("x/1.csv"))
    destination.write("x/2.csv", b"a\n")
    assert sorted(destination.files("x")) == [("x/1.csv", len(data)), ("x/2.csv", 2)]
    assert destination.read("x/1.csv", len(data)) == data
    assert destination.read("x/2.csv", 2) == b"a\n"
    assert destination.remove_leftovers(NOW) == []
    destination.remove(destination.uri_of("x/1.csv"))
    assert destination.exists(destination.uri_of("x/1.csv")) is None
    assert len(place.files()) == 1
