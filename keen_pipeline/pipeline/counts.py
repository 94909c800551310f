"""Counts: what the service holds for many requests, at the price of one request for all that are as expected.

Partitions that follow each other are counted together; only if the sum says that something is different the range is halved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from keen_pipeline.collection import CountPolicy
from keen_pipeline.errors import KeenPipelineError, RateLimitedError, RetryableError
from keen_pipeline.extraction import ExtractionRequest, Status, filters_identity
from keen_pipeline.lifecycle import Count, Entry, GiveUp, Retry, Seen, decide
from keen_pipeline.pipeline import manifests
from keen_pipeline.pipeline.context import Pipeline, each
from keen_pipeline.timeframe import Timeframe

# A longer range is counted in pieces: one count over years of events may take a service longer than it allows itself.
MOST_COUNTED_TOGETHER = 400
# One sleep while the requests a minute are used up.
_LONGEST_REST_SECONDS = 60.0


@dataclass(frozen=True)
class Counted:
    """A landed entry was held against the service's count: `entry.counted`, and `entry.is_whole` compares it with the file.

    `follower`: the next attempt if the file is not whole and one is left. `problem`: why there is no count; it is counted later.
    """

    entry: Entry
    follower: Entry | None = None
    problem: KeenPipelineError | None = None

    @property
    def is_final_failure(self) -> bool:
        """Whether the file contradicts its count, its policy is `fail`, and nothing more is tried by itself."""
        wrong = self.problem is None and self.entry.is_whole is False
        return wrong and self.follower is None and self.entry.request.count_check is CountPolicy.FAIL


def verdict(counted: Counted) -> str:
    """The comparison in words, for a person."""
    entry = counted.entry
    records = entry.landing.records if entry.landing is not None else 0
    what = f"{entry.request}: {records} events landed"
    if counted.problem is not None:
        return f"{what}; they can't be held against the service's count now: {counted.problem}"
    what += f", the service counts {entry.counted}"
    if records == entry.counted:
        return what
    if entry.is_whole:
        return (
            f"{what} now and counted {entry.expected} before the extraction: the others came later, the nightly job takes them up"
        )
    if counted.follower is not None:
        return f"{what}: late events or a cut result; attempt {counted.follower.attempt} follows, the file stays until it lands"
    return (
        f"{what}; the file is kept. The nightly job takes it up again within its lookback, `keen-pipeline backfill --force` at once"
    )


def ask_count(pipeline: Pipeline, request: ExtractionRequest, timeframe: Timeframe, *, patient: bool) -> int:
    """One count. If `patient`, waits as long as it takes while the requests a minute are used up."""
    while True:
        try:
            return pipeline.api.count(request.collection, timeframe, request.filters)
        except RateLimitedError as error:
            if not patient:
                raise
            pipeline.clock.sleep(min(max(error.retry_after or 0.0, 1.0), _LONGEST_REST_SECONDS))


def groups_of(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """The entries that ask for the same events, by collection and filters: what a call about them says is about them alone."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.request.collection, filters_identity(entry.request.filters)].append(entry)
    return groups


def count_together(
    pipeline: Pipeline, requests: Sequence[ExtractionRequest], settled: Callable[[Sequence[int], int], bool], *, patient: bool
) -> Iterator[tuple[Sequence[int], int]]:
    """Of requests for the same events: yields (positions in `requests`, their count in sum), each position once.

    A group of several is yielded if `settled(positions, sum)`; other groups are halved down to single requests.
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
    """Positions of requests whose timeframes touch, in the order of time."""
    positions = sorted(range(len(requests)), key=lambda position: requests[position].timeframe.start)
    group = positions[:1]
    for before, position in pairwise(positions):
        if requests[before].timeframe.end != requests[position].timeframe.start or len(group) >= MOST_COUNTED_TOGETHER:
            yield group
            group = []
        group.append(position)
    if group:
        yield group


def count_landed(pipeline: Pipeline, landed: Sequence[Entry]) -> Iterator[tuple[list[Entry], list[Entry] | KeenPipelineError]]:
    """Hold landed entries against the service's counts of now, each collection for itself.

    Yields the entries of a group, and them with their counts or why these can't be had. Nobody's policy is asked.
    """
    groups = groups_of(e for e in landed if e.status is Status.LANDED)
    for _, entries, answer in each(groups.items(), lambda group: _count(pipeline, group)):
        yield entries, answer


def _count(pipeline: Pipeline, landed: Sequence[Entry]) -> list[Entry]:
    counts = _counts_of(pipeline, landed)
    by_id = {entry.entry_id: entry for entry in landed}
    # The manifests first: what the ledger holds as counted is not looked at again.
    told = [(by_id[entry_id], count) for entry_id, count in counts.items()]
    manifests.note_counts(pipeline.destination, pipeline.scope, told, pipeline.clock.now())
    return pipeline.ledger.counted(counts)


def _counts_of(pipeline: Pipeline, landed: Sequence[Entry]) -> dict[int, int]:
    records = [entry.landing.records if entry.landing is not None else 0 for entry in landed]

    def as_landed(positions: Sequence[int], total: int) -> bool:
        return total == sum(records[position] for position in positions)

    found: dict[int, int] = {}
    for positions, total in count_together(pipeline, [e.request for e in landed], as_landed, patient=True):
        for position in positions:
            # Late events only add, and a cut file only lacks: if the sums agree, each of them does.
            found[landed[position].entry_id] = total if len(positions) == 1 else records[position]
    return found


def reconcile(pipeline: Pipeline, landed: Sequence[Entry], *, worker: str | None = None) -> Iterator[Counted]:
    """Count what has landed and is not counted yet; a file that is not whole is asked for again if its policy is `fail`.

    An entry whose count can't be had now stays uncounted, for the next who looks; only its own collection is held up.
    """
    now = pipeline.clock.now()
    due = [e for e in landed if isinstance(decide(e, Seen(), now, pipeline.limits), Count)]
    for entries, answer in count_landed(pipeline, due):
        if isinstance(answer, KeenPipelineError):
            for entry in entries:
                yield Counted(entry, problem=answer)
            continue
        for entry in answer:
            yield _judged(pipeline, entry, worker)


def _judged(pipeline: Pipeline, entry: Entry, worker: str | None) -> Counted:
    match decide(entry, Seen(), pipeline.clock.now(), pipeline.limits):
        case Retry(reason):
            return Counted(entry, pipeline.ledger.ask_again(entry.entry_id, reason, limits=pipeline.limits, worker=worker))
        case GiveUp() | _:
            return Counted(entry)


def is_late(entry: Entry) -> bool:
    """Whether the service counts other than what the file holds: events that came later, or a file that was cut."""
    return entry.landing is not None and entry.counted is not None and entry.counted != entry.landing.records
