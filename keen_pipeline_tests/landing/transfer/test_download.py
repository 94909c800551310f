"""The transfer's own guards, with nothing behind them: what goes on where, what begins again, what is too long, what is logged."""

from __future__ import annotations

import gzip
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pytest

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import (
    ExtractionTooLargeError,
    KeenPipelineError,
    RateLimitedError,
    ServiceUnavailableError,
    TransferError,
)
from keen_pipeline.gunzip import Gunzip
from keen_pipeline.landing.transfer import download, intake
from keen_pipeline.landing.transfer.download import Download
from keen_pipeline.landing.transfer.workers import BUFFERS, CHUNK_BYTES
from keen_pipeline.ports import ResultsStream

BODY = b"a,b\n" + b"1,2\n" * 1000


@dataclass
class Stream:
    """One answer; with `broken` it ends by a TransferError."""

    data: bytes
    start: int = 0
    total: int | None = len(BODY)
    validator: str | None = '"one"'
    encoding: str = "identity"
    broken: bool = False

    def __post_init__(self) -> None:
        self._file = io.BytesIO(self.data)

    def readinto(self, buffer: memoryview) -> int:
        got = self._file.readinto(buffer)
        if not got and self.broken:
            raise TransferError("the connection broke")
        return got

    def __enter__(self) -> ResultsStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing is open."""


class Answers:
    """A ResultsSource of these answers in turn; `asked` is what was asked for."""

    def __init__(self, *answers: Stream | KeenPipelineError) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[int, str | None]] = []
        self.slept: list[float] = []

    def open(self, *, offset: int = 0, validator: str | None = None) -> ResultsStream:
        self.asked.append((offset, validator))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, KeenPipelineError):
            raise answer
        answer.__post_init__()
        return answer

    def land(self, stage: Stage | None = None) -> bytes:
        """What stands on the stage then."""
        stage = stage or Stage()
        with Download(self, stage, Encoding.CSV, sleep=self.slept.append) as running:
            assert running.run().bytes == len(stage.getvalue())
        return stage.getvalue()


class Stage(io.BytesIO, BinaryIO):  # type: ignore[misc]
    """A staged file in memory."""


def cut(at: int, **facts: object) -> Stream:
    return Stream(BODY[:at], broken=True, **facts)  # type: ignore[arg-type]


def test_rest_of_the_same_file_goes_on_where_it_was_cut() -> None:
    answers = Answers(cut(100), Stream(BODY[100:], start=100))
    assert answers.land() == BODY
    assert answers.asked == [(0, None), (100, '"one"')]


@pytest.mark.parametrize(
    "answer",
    [
        Stream(BODY[100:], start=99),
        Stream(BODY[100:], start=101),
        Stream(BODY[100:], start=100, total=len(BODY) + 1),
        Stream(BODY[100:], start=100, total=None),
        Stream(BODY[100:], start=100, encoding="gzip"),
    ],
    ids=["before", "behind", "another total", "no total", "another coding"],
)
def test_part_of_another_form_is_never_appended(answer: Stream) -> None:
    answers = Answers(cut(100), answer, Stream(BODY))
    assert answers.land() == BODY
    assert answers.asked == [(0, None), (100, '"one"'), (0, None)]


def test_whole_file_instead_of_its_rest_replaces_what_came() -> None:
    other = b"c,d\n" + b"3,4\n" * 10
    long = BODY * (2 * BUFFERS * CHUNK_BYTES // len(BODY))  # of more chunks than wait to be written
    for came in (BODY[:2000], long):
        broken = Stream(came, total=len(long), broken=True)
        assert Answers(broken, Stream(other, total=len(other), validator='"two"')).land() == other


def test_without_a_validator_nothing_is_resumed() -> None:
    answers = Answers(cut(100, validator=None), Stream(BODY))
    assert answers.land() == BODY
    assert answers.asked == [(0, None), (0, None)]


@pytest.mark.parametrize("length", [len(BODY) - 4, len(BODY) - 1])
def test_body_that_is_shorter_than_the_file_is_begun_again(length: int) -> None:
    """Its CSV is whole, so that the total alone tells."""
    answers = Answers(Stream(BODY[:length]), Stream(BODY))
    assert answers.land() == BODY
    assert answers.asked == [(0, None), (0, None)]


def test_damaged_coding_is_begun_again() -> None:
    zipped = gzip.compress(BODY, mtime=0)
    damaged = zipped[:-8] + b"\xff" + zipped[-7:]
    facts = {"encoding": "gzip", "total": len(zipped)}
    answers = Answers(Stream(damaged, **facts), Stream(zipped, **facts))  # type: ignore[arg-type]
    assert answers.land() == BODY
    assert answers.asked == [(0, None), (0, None)]


def test_failures_without_a_new_byte_have_a_bound() -> None:
    answers = Answers(cut(100), cut(0, validator='"two"'), ServiceUnavailableError("busy"))
    with pytest.raises(ServiceUnavailableError, match="busy"):
        answers.land()
    assert len(answers.asked) == download.MOST_FAILURES


def test_cuts_that_each_bring_a_byte_are_not_in_a_row() -> None:
    number = 2 * download.MOST_FAILURES
    pieces = [Stream(BODY[at : at + 1], start=at, broken=True) for at in range(1, number)]
    answers = Answers(cut(1), *pieces, Stream(BODY[number:], start=number))
    assert answers.land() == BODY
    assert max(answers.slept) <= download.FIRST_WAIT_SECONDS


def test_connections_have_a_bound_though_each_brings_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MOST_CONNECTIONS", 8)
    answers = Answers(cut(1), *(Stream(BODY[at : at + 1], start=at, broken=True) for at in range(1, 60)))
    with pytest.raises(TransferError, match="broke"):
        answers.land()
    assert len(answers.asked) == 8


def test_waits_grow_and_a_long_wish_is_the_callers() -> None:
    answers = Answers(*[ServiceUnavailableError("busy")] * 4, RateLimitedError("busy", retry_after=31))
    with pytest.raises(RateLimitedError):
        answers.land()
    first, second, third, fourth = answers.slept
    assert 0.1 * download.FIRST_WAIT_SECONDS < first < second * 2 < third * 4 < fourth * 8
    answers = Answers(RateLimitedError("busy", retry_after=31), Stream(BODY))
    with pytest.raises(RateLimitedError):
        answers.land()
    assert answers.slept == []
    answers = Answers(ServiceUnavailableError("busy", retry_after=7), Stream(BODY))
    answers.land()
    assert answers.slept == [7]


@pytest.mark.parametrize(
    "answer",
    [
        Stream(BODY, total=5000),
        Stream(BODY, total=None),
        Stream(gzip.compress(BODY), total=None, encoding="gzip"),
        Stream(gzip.compress(b"") * 300, total=None, encoding="gzip"),
    ],
    ids=["announced", "as it comes", "as unzipped", "as zipped"],
)
def test_result_has_a_bound_that_the_error_names(answer: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_RESULT_BYTES", 4000)
    with pytest.raises(ExtractionTooLargeError, match=r"longer than 4,000 bytes"):
        Answers(answer).land()
    monkeypatch.setattr(intake, "MAX_RESULT_BYTES", len(BODY))
    assert Answers(Stream(BODY)).land() == BODY


@pytest.mark.timeout(20)
def test_many_empty_members_cost_no_more_than_their_bytes() -> None:
    gunzip, data = Gunzip(), gzip.compress(b"") * 200_000 + gzip.compress(BODY)
    assert b"".join(gunzip.pieces(data)) == BODY
    assert gunzip.whole


def test_bound_is_100_gigabytes_by_default() -> None:
    with pytest.raises(ExtractionTooLargeError, match="100,000,000,000 bytes"):
        Answers(Stream(b"", total=100 * 10**9 + 1)).land()


def lines(caplog: pytest.LogCaptureFixture, *answers: Stream | KeenPipelineError) -> list[str]:
    caplog.set_level(logging.INFO, "keen_pipeline")
    Answers(*answers).land()
    return [record.getMessage().partition(": ")[2] for record in caplog.records]


def test_resume_restart_and_wait_leave_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    found = lines(caplog, cut(100), Stream(BODY[100:], start=100))
    assert [line.split(" 0.")[0] for line in found] == ["waiting", f"resuming at byte 100 of {len(BODY)}"]
    assert found[0].endswith("after failure 1 at byte 100: the connection broke")
    caplog.clear()
    found = lines(caplog, cut(100, validator=None), Stream(BODY))
    assert found[1:] == ["beginning again after 100 bytes: no part could be asked for"]
    caplog.clear()
    found = lines(caplog, cut(100), Stream(BODY))
    assert found[1:] == ["beginning again after 100 bytes: another file or no part came"]


def test_what_the_stage_refuses_is_raised() -> None:
    class Full(Stage):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Answers(Stream(BODY)).land(Full())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("first", [1, 3])
def test_stage_that_fails_is_not_taken_for_a_broken_connection(first: int) -> None:
    """Each connection would bring bytes again, and nothing would ever take them."""

    class Sick(Stage):
        writes = 0

        def write(self, data: bytes) -> int:
            self.writes += 1
            if self.writes >= first:
                raise ServiceUnavailableError("the storage failed")
            return super().write(data)

    body = b"a,b\n" + b"1,2\n" * 2_000_000
    answers = Answers(*(Stream(body[at:], start=at, total=len(body)) for at in range(0, len(body), 1024 * 1024)))
    with pytest.raises(ServiceUnavailableError, match="the storage failed"):
        answers.land(Sick())
    assert answers.asked == [(0, None)]


def test_facts_of_an_intake_are_of_the_bytes_as_they_came() -> None:
    pieces: Sequence[bytes] = [gzip.compress(BODY[:2000]), gzip.compress(BODY[2000:])]
    stage = Stage()
    running = intake.Intake(stage, Encoding.CSV, "gzip")
    for piece in pieces:
        while running.pull(Stream(piece)):
            pass
    running.finish()
    assert (running.received, running.bytes, running.records) == (sum(map(len, pieces)), len(BODY), 1000)
    assert stage.getvalue() == BODY
