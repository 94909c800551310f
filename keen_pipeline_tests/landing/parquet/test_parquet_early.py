"""A long CSV becomes Parquet while it comes: whatever happens to the transfer, the file is the one that is made afterwards."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from pyarrow import parquet

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError, TransferError, VerificationError
from keen_pipeline.landing.parquet import convert as ours
from keen_pipeline.landing.parquet import source as parquet_source
from keen_pipeline.landing.storages import local
from keen_pipeline_tests.landing.conftest import Lander, example
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import Behaviour

RECORDS = 60_000
BODY = example(RECORDS)
EARLY = 300_000


@pytest.fixture
def early(lander: Lander, monkeypatch: pytest.MonkeyPatch) -> Lander:
    """Conversions begin when a few blocks have come."""
    assert len(BODY) > 8 * EARLY
    monkeypatch.setattr(ours, "EARLY_BYTES", EARLY)
    monkeypatch.setattr(parquet_source, "BLOCK_BYTES", 32 * 1024)
    lander.server.body = BODY
    return lander


def target(lander: Lander) -> Path:
    return lander.root / "purchases" / "2026-01-01.parquet"


@pytest.fixture
def late_file(early: Lander, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The file as it is made of a CSV that has come whole."""
    with monkeypatch.context() as patch:
        patch.setattr(ours, "EARLY_BYTES", len(BODY) + 1)
        early.land([faults.whole()], Encoding.PARQUET)
    made = target(early).read_bytes()
    target(early).unlink()
    return made


def at_work() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("landing-parquet")]


@pytest.mark.parametrize(
    "results",
    [
        [faults.whole()],
        [faults.chunked()],
        [faults.cut(2_000_001), faults.whole()],
        [faults.cut(EARLY + 1), faults.reset(1_000_000), faults.whole()],
        [faults.cut_without_validator(2_000_000), faults.no_ranges()],
        [faults.cut(2_000_000), faults.no_ranges()],
        [faults.gzipped(damage=5000), faults.gzipped()],
    ],
    ids=["whole", "chunked", "resumed", "resumed twice", "begun anew", "ranges not honoured", "damaged gzip"],
)
def test_file_made_beside_the_transfer_is_the_one_made_after_it(
    early: Lander, late_file: bytes, results: Sequence[Behaviour]
) -> None:
    landing = early.land(results, Encoding.PARQUET)
    assert landing.records == RECORDS
    assert target(early).read_bytes() == late_file
    assert not at_work()


def test_every_record_is_there(early: Lander) -> None:
    early.land([faults.cut(2_000_001), faults.whole()], Encoding.PARQUET)
    expected = list(csv.reader(io.StringIO(BODY.decode(), newline="")))[1:]
    assert [list(row.values()) for row in parquet.read_table(target(early)).to_pylist()] == expected


def test_cell_that_does_not_fit_may_come_last(early: Lander) -> None:
    early.server.body = BODY + b'x,"Stra\xc3\x9fe",1.5,note\r\n'
    early.server.results = [faults.whole()]
    destination = early.destination()
    types = {"keen.id": "num", "amount": "num"}
    landing = destination.land(early.source(), str(target(early)), extraction_id="e1", types=types)
    assert landing.column_types == ("string", "string", "double", "string")
    assert parquet.read_table(target(early)).column("keen.id").to_pylist() == [*map(str, range(RECORDS)), "x"]


@pytest.mark.parametrize("wrong", [b"1,2\r\n", b'1,"2,3,4\r\n'], ids=["too few columns", "an open quote"])
@pytest.mark.parametrize("last", [True, False])
def test_csv_that_is_refused_is_kept_aside_and_nothing_is_landed(early: Lander, wrong: bytes, last: bool) -> None:
    place = len(BODY) if last else BODY.index(b"\r\n30000,") + 2
    early.server.body = BODY[:place] + wrong + BODY[place:]
    with pytest.raises(VerificationError, match="record") as raised:
        early.land([faults.whole()], Encoding.PARQUET)
    assert raised.value.quarantined is not None
    assert Path(raised.value.quarantined).read_bytes() == early.server.body
    assert not target(early).exists()
    assert not at_work()


def test_transfer_that_is_given_up_leaves_the_older_file(early: Lander) -> None:
    target(early).parent.mkdir(parents=True)
    target(early).write_bytes(b"older")
    with pytest.raises(TransferError):
        early.land([faults.cut(2_000_000), faults.cut(0)], Encoding.PARQUET)
    assert target(early).read_bytes() == b"older"
    assert [path.name for path in target(early).parent.iterdir()] == [target(early).name]
    assert not at_work()


def test_destination_that_is_full_is_the_one_named(early: Lander, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = local.StagedFile.write

    def full(self: local.StagedFile, data: object) -> int:
        if isinstance(self, parquet_source.CsvBody):
            return whole(self, data)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.StagedFile, "write", full)
    with pytest.raises(ConfigurationError, match=r"destination \S+ is full \(No space left on device\)"):
        early.land([faults.whole()], Encoding.PARQUET)
    assert not at_work()


def test_missing_temporary_folder_is_named(early: Lander, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(ConfigurationError, match=r"temporary folder /nowhere \(TMPDIR\) can't be written \(No such"):
        early.land([faults.whole()], Encoding.PARQUET)


def test_temporary_folder_that_is_full_ends_the_landing(early: Lander, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: local.StagedFile, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.StagedFile, "write", full)
    with pytest.raises(ConfigurationError, match=r"temporary folder \S+ \(TMPDIR\) is full \(No space left") as raised:
        early.land([faults.whole()], Encoding.PARQUET)
    assert "destination" not in str(raised.value)
    assert not target(early).exists()
    assert not at_work()
