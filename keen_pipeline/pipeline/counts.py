"""Counts: what the service holds for many requests, at the price of one request for all that are as expected.

Partitions that follow each other are counted together; only where the sum says that something is different the range is halved.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from keen_pipeline.errors import PermanentError, RateLimitedError, RetryableError
from keen_pipeline.extraction import CountPolicy, ExtractionRequest, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.timeframe import Timeframe

# A longer range is counted in pieces: one count over years of events may take a service longer than it allows itself.
MOST_COUNTED_TOGETHER = 400


@dataclass(frozen=True)
class Counted:
    """The service's count of a landed entry is known: `entry.counted`, and `entry.is_whole` compares it with the file.

    `follower`: the next attempt where the file is not whole and one is left. `problem`: why there is no count.
    """

    entry: Entry
    follower: Entry | None = None
    problem: str | None = None

    @property
    def is_final_failure(self) -> bool:
        """Whether the file lacks events, its policy is `fail`, and nothing more is tried by itself."""
        return self.entry.is_whole is False and self.follower is None and self.entry.request.count_check is CountPolicy.FAIL


def verdict(counted: Counted) -> str:
    """The comparison in words, for a person."""
    entry = counted.entry
    records = entry.landing.records if entry.landing is not None else 0
    what = f"{entry.request}: {records} events landed"
    if entry.counted is None:
        return f"{what}; the service's count can't be had: {counted.problem or 'unknown reason'}"
    what += f", the service counts {entry.counted}"
    if records == entry.counted:
        return what
    if entry.is_whole:
        return (
            f"{what} now and counted {entry.expected} before the extraction: the others came later, the nightly job takes them up"
        )
    if counted.follower is not None:
        return f"{what}: late events or a cut result; attempt {counted.follower.attempt} follows, the file stays until it lands"
    return f"{what}; the file is kept. The nightly job takes it up again within its lookback, a run with `force` at once"


def ask_count(pipeline: Pipeline, request: ExtractionRequest, timeframe: Timeframe, *, patient: bool) -> int:
    """One count. Where `patient`, waits while the requests a minute are used up, at most `stuck_seconds`."""
    give_up = pipeline.clock.now() + timedelta(seconds=pipeline.limits.stuck_seconds)
    while True:
        try:
            return pipeline.api.count(request.collection, timeframe, request.filters)
        except RateLimitedError as error:
            if not patient or pipeline.clock.now() >= give_up:
                raise
            pipeline.clock.sleep(min(max(error.retry_after or 0.0, 1.0), 60.0))


def count_together(
    pipeline: Pipeline,
    requests: Sequence[ExtractionRequest],
    settled: Callable[[Sequence[int], int], bool],
    *,
    patient: bool,
) -> Iterator[tuple[Sequence[int], int]]:
    """Yields (positions in `requests`, their count in sum), each position once.

    A group of several is yielded where `settled(positions, sum)`; other groups are halved down to single requests.
    Raises what `count` raises; a group too large for the service to count in time is halved too.
    """
    for group in _neighbours(requests):
        todo: list[tuple[Sequence[int], int | None]] = [(group, None)]
        while todo:
            positions, total = todo.pop()
            if total is None:
                span = Timeframe(requests[positions[0]].timeframe.start, requests[positions[-1]].timeframe.end)
                try:
                    total = ask_count(pipeline, requests[positions[0]], span, patient=patient)
                except RateLimitedError:
                    raise
                except RetryableError:
                    if len(positions) == 1:
                        raise
            if len(positions) == 1 or (total is not None and settled(positions, total)):
                assert total is not None
                yield positions, total
                continue
            middle = len(positions) // 2
            first = Timeframe(requests[positions[0]].timeframe.start, requests[positions[middle - 1]].timeframe.end)
            if total is None:
                todo += [(positions[middle:], None), (positions[:middle], None)]
                continue
            # The second half is what the first leaves of the sum: no request for it.
            left = ask_count(pipeline, requests[positions[0]], first, patient=patient)
            todo += [(positions[middle:], max(0, total - left)), (positions[:middle], left)]


def _neighbours(requests: Sequence[ExtractionRequest]) -> Iterator[Sequence[int]]:
    """Positions of requests of the same events whose timeframes touch, in the order of time."""
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, request in enumerate(requests):
        filters = json.dumps(sorted(json.dumps(f.to_wire(), sort_keys=True) for f in request.filters))
        alike[request.collection, filters].append(position)
    for positions in alike.values():
        positions.sort(key=lambda position: requests[position].timeframe.start)
        group = positions[:1]
        for before, position in pairwise(positions):
            if requests[before].timeframe.end != requests[position].timeframe.start or len(group) >= MOST_COUNTED_TOGETHER:
                yield group
                group = []
            group.append(position)
        yield group


def grown(pipeline: Pipeline, landed: Sequence[Entry]) -> set[int]:
    """Ids of landed entries whose file no longer holds what the service counts; all their counts are noted."""
    return {e.entry_id for e in recount(pipeline, landed) if e.landing is not None and e.counted != e.landing.records}


def recount(pipeline: Pipeline, landed: Sequence[Entry]) -> list[Entry]:
    """Landed entries with their counts of now. Raises what `count` raises."""
    return pipeline.ledger.counted(dict(_counts_of(pipeline, landed)))


def reconcile(pipeline: Pipeline, landed: Sequence[Entry]) -> Iterator[Counted]:
    """Hold landed files against the service's count; one that is not whole is asked for again where its policy is `fail`.

    An entry whose count can't be had now is left out and stays uncounted; the next landing run counts it.
    """
    due = [e for e in landed if e.status is Status.LANDED and e.request.count_check is not CountPolicy.OFF]
    try:
        counts: dict[int, int | None] = dict(_counts_of(pipeline, due))
    except RetryableError:
        return
    except PermanentError as error:
        for entry in pipeline.ledger.counted({e.entry_id: None for e in due}):
            yield Counted(entry, problem=str(error))
        return
    for entry in pipeline.ledger.counted(counts):
        follower = None
        if entry.is_whole is False and entry.request.count_check is CountPolicy.FAIL:
            follower = pipeline.ledger.again(entry.entry_id, limits=pipeline.limits, jitter=pipeline.jitter())
        yield Counted(entry, follower)


def _counts_of(pipeline: Pipeline, landed: Sequence[Entry]) -> dict[int, int]:
    records = [entry.landing.records if entry.landing is not None else 0 for entry in landed]

    def as_landed(positions: Sequence[int], total: int) -> bool:
        return total == sum(records[position] for position in positions)

    found: dict[int, int] = {}
    for positions, total in count_together(pipeline, [e.request for e in landed], as_landed, patient=True):
        for position in positions:
            # Late events only add, and a cut file only lacks: where the sums agree, each of them does.
            found[landed[position].entry_id] = total if len(positions) == 1 else records[position]
    return found
