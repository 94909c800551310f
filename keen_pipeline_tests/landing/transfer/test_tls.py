"""Over TLS, with a time limit shorter than the transfer, small records, cuts and resumes: the landed file is the served one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from keen_pipeline.errors import TransferError
from keen_pipeline_tests.landing.conftest import Lander, example
from keen_pipeline_tests.servers import faults, tls, wire_faults
from keen_pipeline_tests.servers.faults import Behaviour, FaultServer

SLOW = wire_faults.trickle(10_000, 0.02)
LANDED: dict[str, Sequence[Behaviour]] = {
    "nothing wrong": [faults.whole()],
    "small records": [wire_faults.trickle(200, 0)],
    "cut by the time limit again and again": [SLOW],
    "cut by it in small records": [wire_faults.trickle(3000, 0.001)],
    "cut by it, then reset, then whole": [SLOW, faults.reset(30_000), faults.cut(1), SLOW, faults.whole()],
    "cut by it, and no ranges": [SLOW, faults.no_ranges()],
    "chunked and cut": [faults.chunked(stop_after=100), faults.chunked()],
    "without a length": [faults.undelimited()],
    "without a length, cut at a record's end": [faults.undelimited(example().index(b"\n4000,") + 1), faults.whole()],
    "gzip, cut and resumed": [faults.gzipped(after=3000), faults.gzipped()],
    "stalled": [faults.stall(100_000), faults.whole()],
    "reset at once": [faults.reset_at_once(), faults.whole()],
}


@pytest.fixture
def lander(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lander]:
    tls.trust(tmp_path, monkeypatch)
    with FaultServer(body=example(), tls=tls.server_context()) as server:
        yield Lander(tmp_path / "root", server, read_timeout=0.3, transfer_timeout=0.3)


@pytest.mark.parametrize("name", LANDED)
def test_landed_file_is_the_served_one_byte_by_byte(name: str, lander: Lander) -> None:
    if name in ("small records", "nothing wrong", "without a length", "cut by it, and no ranges"):
        lander.transfer_timeout = 20
    landing = lander.land(LANDED[name])
    assert Path(landing.uri).read_bytes() == lander.server.body
    assert (landing.bytes, landing.records) == (len(lander.server.body), 8000)


def test_cuts_by_the_time_limit_are_resumed_and_logged(lander: Lander, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keen_pipeline")
    lander.land([SLOW])
    asked = lander.server.asked("/results")
    assert len(asked) > 2
    offsets = [int(one.headers["range"].removeprefix("bytes=").removesuffix("-")) for one in asked[1:]]
    assert offsets == sorted(set(offsets))
    lines = [record.getMessage() for record in caplog.records]
    assert sum("resuming at byte" in line for line in lines) == len(asked) - 1
    assert any("time limit of 0.3 s" in line for line in lines)
    assert not any("s3cr3t" in line for line in lines)


def test_transfer_that_gets_no_further_is_given_up(lander: Lander) -> None:
    with pytest.raises(TransferError, match=r"time limit of 0\.3 s"):
        lander.land([wire_faults.trickle(100, 0.1)])
    assert not list(lander.root.rglob("*.csv"))
