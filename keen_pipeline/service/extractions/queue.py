"""Which extraction is written next, and by whom."""

from __future__ import annotations

from collections.abc import Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from keen_pipeline.service.extractions.records import ExtractionRecords, result_name


@dataclass(frozen=True)
class Turn:
    """A turn at one extraction. `number`: from 1 where several processes take turns, else 0. `lost`: turns that nobody ended."""

    extraction_id: str
    number: int = 0
    lost: int = 0

    @property
    def result(self) -> str:
        """What its result is called, without ending."""
        return result_name(self.extraction_id, self.number)


class ExtractionQueue(Protocol):
    """Hands out turns. Every method may be called from any thread."""

    def take(self, running: Set[str], resting: Set[str]) -> Turn | float:
        """The next turn, else the seconds after which to ask again.

        `running`: the extractions that this process writes now. `resting`: those that wait until it writes no other.
        """
        ...

    def put_off(self, turn: Turn, seconds: float) -> None:
        """End a turn without an end of its extraction, which may be taken again after so many seconds."""
        ...

    def leave(self, turn: Turn) -> None:
        """This process no longer works on the turn, however it ended."""
        ...

    def sweeping(self) -> AbstractContextManager[bool]:
        """Whether this process is the one that removes old results, while the block runs."""
        ...

    def close(self) -> None:
        """Nothing runs any more."""
        ...


class OneProcessQueue:
    """The queue of one data folder: what runs is known to the process alone, so a crash leaves the record as it was.

    `longest_pause`: the most seconds that `take` answers. `resting_pause`: what it answers where only resting ones are due.
    """

    def __init__(self, records: ExtractionRecords, longest_pause: float, resting_pause: float) -> None:
        self._records = records
        self._longest_pause, self._resting_pause = longest_pause, resting_pause

    def take(self, running: Set[str], resting: Set[str]) -> Turn | float:
        """The oldest that is due."""
        now, pause = self._records.now(), self._longest_pause
        for extraction_id, not_before in self._records.waiting():
            if extraction_id in running:
                continue
            if extraction_id in resting and running:
                pause = min(pause, self._resting_pause)
                continue
            if not_before <= now:
                return Turn(extraction_id)
            pause = min(pause, not_before - now)
        return pause

    def put_off(self, turn: Turn, seconds: float) -> None:
        """Its record waits as before; the worker makes the pause."""

    def leave(self, turn: Turn) -> None:
        """Nothing is kept of it."""

    def sweeping(self) -> AbstractContextManager[bool]:
        """There is no other process."""
        return nullcontext(enter_result=True)

    def close(self) -> None:
        """There is nothing to close."""
