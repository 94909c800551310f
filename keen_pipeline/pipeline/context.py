"""What every use case works with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from keen_pipeline.errors import KeenPipelineError, LedgerUnavailableError
from keen_pipeline.landing import FileDestination
from keen_pipeline.lifecycle import Entry, Limits
from keen_pipeline.pipeline.told import on_one_line
from keen_pipeline.ports import Clock, ExtractionApi
from keen_pipeline.scope import Scope

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import SqlLedger
    from keen_pipeline.ledger.workers import Worker

_Key = TypeVar("_Key")
_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Pipeline:
    """The adapters and the bounds of one scope.

    `poll_seconds`: between two polls of a wait. `landing_threads`, `posting_threads`: files and POSTs at once.
    `mask_key`: of the hashes of masked columns.
    """

    api: ExtractionApi
    ledger: SqlLedger
    destination: FileDestination
    limits: Limits = field(default_factory=Limits)
    poll_seconds: float = 5.0
    landing_threads: int = 4
    posting_threads: int = 4
    mask_key: bytes | None = field(default=None, repr=False)

    @property
    def clock(self) -> Clock:
        """The ledger's time, whatever this machine's clock says."""
        return self.ledger.clock

    @property
    def scope(self) -> Scope:
        """Whose entries these are."""
        return self.ledger.scope

    def working(self, doing: str) -> AbstractContextManager[Worker]:
        """A worker for the block's time; see `SqlLedger.working`."""
        return self.ledger.working(doing, self.limits)

    def fail(self, entry: Entry, reason: str, worker: str | None, *, final: bool = False) -> Entry | None:
        """An attempt is over; see `SqlLedger.fail`."""
        limits, jitter = self.limits, self.jitter()
        return self.ledger.fail(entry.entry_id, reason, limits=limits, worker=worker, jitter=jitter, final=final)

    def jitter(self) -> float:
        """Uniform in [0, 1], for back-offs."""
        return random.random()  # noqa: S311 - spreads retries, guards nothing


def by_collection(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of each collection, in their order."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.request.collection, []).append(entry)
    return groups


def each(
    groups: Iterable[tuple[_Key, _Item]], call: Callable[[_Item], _Answer]
) -> Iterator[tuple[_Key, _Item, _Answer | KeenPipelineError]]:
    """`call` for each group, with its answer or its error: what is wrong with one group is charged to it alone.

    A ledger that is away is everybody's problem, and is raised.
    """
    for key, item in groups:
        answer: _Answer | KeenPipelineError
        try:
            answer = call(item)
        except LedgerUnavailableError:
            raise
        except KeenPipelineError as error:
            answer = error
        yield key, item, answer


def first_line(error: BaseException | Any) -> str:
    """An error's words on one line."""
    return on_one_line(str(error)) or type(error).__name__
