"""Whether the partitions of a collection have landed in time and are of today's configuration, and what keeps those that aren't."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from keen_pipeline.collection import Collection
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.extraction import Status
from keen_pipeline.partitions import EVER, Partition, due_partitions, ended_partitions, partition_for_key
from keen_pipeline.pipeline.extractions.submit import gaps
from keen_pipeline.pipeline.requests import lacks_mask_key, partition_request
from keen_pipeline.timeframe import format_instant

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import PartitionState, SqlLedger

# Partitions that one sentence names; --json has all.
_MOST_NAMED = 10


@dataclass(frozen=True)
class Coverage:
    """What there is of a collection's partitions. All lists are oldest first.

    `due`: how many have ended since its start date. `landed`: how many of those have a file. `gaps`: those after the first that
    landed without a file, which nobody works on or has given up. `outdated`: their file was made by another configuration than
    today's, or may be another's. `given_up`: the newest attempt was abandoned or cancelled. `newest`: the last that landed.
    `strays`: with a file, yet none of today's partitions, after another granularity or start date: nothing reads or replaces it.
    """

    due: int
    landed: int
    newest: str | None
    gaps: tuple[str, ...]
    outdated: tuple[str, ...]
    given_up: tuple[PartitionState, ...]
    strays: tuple[str, ...]


def coverage(ledger: SqlLedger, collection: Collection, now: datetime, *, mask_key: bytes | None = None) -> Coverage:
    """Every partition of a collection since its start date, held against the ledger."""
    states = {state.key: state for state in ledger.partitions(collection.name)}
    due = ended_partitions(collection, now)
    landed = [p for p in due if _has_landed(states, p.key)]
    outdated = _outdated(ledger, collection, landed, states, mask_key)
    current = {p.key for p in landed}.difference(outdated)

    def is_given_up(state: PartitionState) -> bool:
        # Not if it was another configuration's question, and the file answers today's.
        is_asked = state.fingerprint == state.landed_fingerprint or state.key not in current
        return is_asked and state.status in (Status.ABANDONED, Status.CANCELLED)

    given_up = tuple(states[p.key] for p in due if p.key in states and is_given_up(states[p.key]))
    missing = tuple(p.key for p in gaps(due, states))
    keys = {partition.key for partition in due}
    strays = tuple(key for key, state in states.items() if state.landed and key not in keys)
    return Coverage(len(due), len(landed), landed[-1].key if landed else None, missing, outdated, given_up, strays)


def todays_landings(
    ledger: SqlLedger, collection: Collection, *, mask_key: bytes | None = None
) -> Callable[[str, str], str | None]:
    """By collection and partition key what today's configuration wants of a landed file: its fingerprint.

    None for a partition that lies before the start date, or is none. For readers: what another configuration made is not read.
    Raises ConfigurationError if the key of its hashes isn't known here.
    """
    if lacks_mask_key(collection, mask_key):
        raise ConfigurationError(f"{collection.name}: columns are hashed, but their key isn't set here: KEEN_PIPELINE_MASK_KEY")

    def wanted(name: str, key: str) -> str | None:
        try:
            partition = partition_for_key(collection, key, EVER)
        except InvalidInputError:
            return None
        return partition_request(collection, partition, mask_key=mask_key).fingerprint(ledger.scope)

    return wanted


def _outdated(
    ledger: SqlLedger,
    collection: Collection,
    landed: Iterable[Partition],
    states: Mapping[str, PartitionState],
    mask_key: bytes | None,
) -> tuple[str, ...]:
    can_tell = not lacks_mask_key(collection, mask_key)

    def is_outdated(partition: Partition) -> bool:
        state, wanted = states[partition.key], partition_request(collection, partition, mask_key=mask_key).fingerprint(ledger.scope)
        return state.unproven or (can_tell and state.landed_fingerprint != wanted)

    return tuple(partition.key for partition in landed if is_outdated(partition))


@dataclass(frozen=True)
class Freshness:
    """`newest`: the last partition whose time is over, None if none is. `late`: those that have not landed, and why.

    `outdated`: partitions whose file another configuration made; beyond the lookback nothing asks for them by itself.
    """

    newest: Partition | None
    late: tuple[tuple[Partition, str], ...]
    outdated: tuple[str, ...] = ()

    @property
    def is_fresh(self) -> bool:
        """Whether everything has landed in time, by today's configuration."""
        return not self.late and not self.outdated

    def __str__(self) -> str:
        if self.newest is None:
            return "no partition is due yet"
        told = [f"{partition.key} {why}" for partition, why in self.late[:_MOST_NAMED]]
        if len(self.late) > _MOST_NAMED:
            told.append(f"and {len(self.late) - _MOST_NAMED} more")
        if self.outdated:
            names = ", ".join(self.outdated[:_MOST_NAMED]) + (", ..." if len(self.outdated) > _MOST_NAMED else "")
            told.append(f"{len(self.outdated)} were made with a different configuration than today's: {names}")
        return "; ".join(told) or f"landed up to {self.newest.key}"


def freshness(ledger: SqlLedger, collection: Collection, now: datetime, *, mask_key: bytes | None = None) -> Freshness:
    """The partitions that a night `fresh_within_hours` before `now` would want landed, gaps before them included."""
    assert collection.fresh_within_hours is not None
    allowed = timedelta(hours=collection.fresh_within_hours)
    states = {state.key: state for state in ledger.partitions(collection.name)}
    recent = due_partitions(collection, now - allowed)
    if not recent:
        return Freshness(None, ())
    ended = ended_partitions(collection, now - allowed)
    wanted = {p.key: p for p in (*gaps(ended, states), *recent)}
    due = sorted(wanted.values(), key=lambda p: p.timeframe.start)
    late = [(p, _why(states.get(p.key), p.timeframe.end + allowed)) for p in due if not _has_landed(states, p.key)]
    landed = [p for p in ended if _has_landed(states, p.key)]
    return Freshness(due[-1], tuple(late), _outdated(ledger, collection, landed, states, mask_key))


def _has_landed(states: Mapping[str, PartitionState], key: str) -> bool:
    return key in states and states[key].landed


def _why(state: PartitionState | None, deadline: datetime) -> str:
    stands = "was never asked for" if state is None else f"is {state.status.value}" + (f": {state.error}" if state.error else "")
    return f"should have landed by {format_instant(deadline)} and {stands}"
