"""Counts: what the service holds for many requests, at the price of one request for all that are as expected.

Partitions that follow each other are counted together; only if the sum says that something is different the range is halved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from keen_pipeline.collection import CountPolicy
from keen_pipeline.errors import KeenPipelineError, RateLimitedError, RetryableError
from keen_pipeline.extraction import ExtractionRequest, Status, filters_identity
from keen_pipeline.lifecycle import Count, Entry, Retry, Seen, decide
from keen_pipeline.pipeline.context import Pipeline, each
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.timeframe import Timeframe

# A longer range is counted in pieces: one count over years of events may take a service longer than it allows itself.
MOST_COUNTED_TOGETHER = 400
# One sleep while the requests a minute are used up, and all of them of one caller.
_LONGEST_REST_SECONDS = 60.0
PATIENCE_SECONDS = 600.0


@dataclass
class Patience:
    """For how many more `seconds` counts may wait while the service refuses them, or the requests a minute are used up.

    Shared by all counts of a caller, so that a service which refuses one collection forever doesn't hold up the others as long.
    """

    seconds: float = PATIENCE_SECONDS


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


def ask_count(pipeline: Pipeline, request: ExtractionRequest, timeframe: Timeframe, patience: Patience | None = None) -> int:
    """One count; waits by `patience` (None: not at all) while it is refused for now. Raises RateLimitedError if that is over."""
    while True:
        begun = pipeline.clock.now()
        try:
            return pipeline.api.count(request.collection, timeframe, request.filters)
        except RateLimitedError as error:
            if patience is None:
                raise
            rest = min(max(error.retry_after or 0.0, 1.0), _LONGEST_REST_SECONDS)
            patience.seconds -= max(0.0, (pipeline.clock.now() - begun).total_seconds()) + rest
            if patience.seconds < 0:
                raise
            pipeline.clock.sleep(rest)


def groups_of(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """The entries that ask for the same events, by collection and filters: what a call about them says is about them alone."""
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.request.collection, filters_identity(entry.request.filters)].append(entry)
    return groups


def count_together(
    pipeline: Pipeline,
    requests: Sequence[ExtractionRequest],
    settled: Callable[[Sequence[int], int], bool],
    patience: Patience | None = None,
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
                    total = ask_count(pipeline, requests[positions[0]], span, patience)
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
            left = ask_count(pipeline, requests[positions[0]], first, patience)
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


def count_landed(
    pipeline: Pipeline, landed: Sequence[Entry], patience: Patience | None = None
) -> Iterator[tuple[list[Entry], list[Entry] | KeenPipelineError]]:
    """Hold landed entries against the service's counts of now, each collection for itself. Nobody's policy is asked.

    Yields the entries of a group, and them with their counts or why these can't be had; one by one those whose manifest can't be
    written.
    """
    patience = patience or Patience()
    groups = groups_of(e for e in landed if e.status is Status.LANDED)
    for _, entries, answer in each(groups.items(), lambda group: _count(pipeline, group, patience)):
        if isinstance(answer, KeenPipelineError):
            yield entries, answer
            continue
        counted, unnoted = answer
        yield [entry for entry in entries if entry.entry_id not in unnoted], counted
        yield from (([entry], unnoted[entry.entry_id]) for entry in entries if entry.entry_id in unnoted)


def _count(pipeline: Pipeline, landed: Sequence[Entry], patience: Patience) -> tuple[list[Entry], Mapping[int, KeenPipelineError]]:
    records = [entry.landing.records if entry.landing is not None else 0 for entry in landed]

    def as_landed(positions: Sequence[int], total: int) -> bool:
        return total == sum(records[position] for position in positions)

    counts: dict[int, int] = {}
    for positions, total in count_together(pipeline, [e.request for e in landed], as_landed, patience):
        for position in positions:
            # Late events only add, and a cut file only lacks: if the sums agree, each of them does.
            counts[landed[position].entry_id] = total if len(positions) == 1 else records[position]
    changed = [(entry, counts[entry.entry_id]) for entry in landed if entry.counted != counts[entry.entry_id]]
    # The manifests first: what the ledger holds as counted is not looked at again.
    unnoted, written = manifests.note_counts(pipeline.destination, pipeline.scope, changed, pipeline.clock.now())
    counted = pipeline.ledger.counted({entry_id: count for entry_id, count in counts.items() if entry_id not in unnoted})
    valid = {entry.entry_id for entry in counted if not entry.unproven}
    for entry in written:
        if entry.entry_id not in valid and not entry.unproven:  # another landing's manifest may have lain there already
            pipeline.ledger.mark_unproven(entry)
    return counted, unnoted


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
            action, follower = decide(entry, Seen(), now, pipeline.limits), None
            if isinstance(action, Retry):
                follower = pipeline.ledger.ask_again(entry.entry_id, action.reason, limits=pipeline.limits, worker=worker)
            yield Counted(entry, follower)


def is_late(entry: Entry) -> bool:
    """Whether the service counts other than what the file holds: events that came later, or a file that was cut."""
    return entry.landing is not None and entry.counted is not None and entry.counted != entry.landing.records
