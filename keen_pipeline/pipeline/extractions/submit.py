"""Submit: which partitions are wanted, and their intents in the ledger. Nothing is posted here (`post_due` does)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING

from keen_pipeline.collection import Collection, CountPolicy
from keen_pipeline.errors import ConfigurationError, KeenPipelineError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import EVER, Partition, due_partitions, ended_partitions
from keen_pipeline.pipeline.context import Pipeline
from keen_pipeline.pipeline.counts import Patience, count_landed, is_late
from keen_pipeline.pipeline.files import manifests
from keen_pipeline.pipeline.requests import check_mask_key, partition_request

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import PartitionState, Requested

_log = logging.getLogger(__name__)
_LOOKS_AT_ONCE = 8


@dataclass(frozen=True)
class Submission:
    """What became of some requests, in their order: `created` intents, `adopted` open ones, `landed` ones left alone.

    `problems`: by collection why its landed files could not be looked at, or held against the service's count; they were left
    alone.
    """

    requested: tuple[Requested, ...]
    problems: Mapping[str, KeenPipelineError]

    @property
    def created(self) -> list[Entry]:
        """Intents journalled by this call."""
        return [r.entry for r in self.requested if r.created]

    @property
    def adopted(self) -> list[Entry]:
        """Open attempts of the same requests, asked for by somebody before."""
        return [r.entry for r in self.requested if not r.created and not r.entry.status.is_terminal]

    @property
    def landed(self) -> list[Entry]:
        """Requests whose file is whole at the destination and up to date."""
        return [r.entry for r in self.requested if r.entry.status is Status.LANDED]


def submit(
    pipeline: Pipeline,
    requests: Sequence[ExtractionRequest],
    *,
    keep: Callable[[Entry], bool] = lambda _: True,
    recount: bool = True,
    patience: Patience | None = None,
    run_id: str | None = None,
    waits: bool = True,
) -> Submission:
    """Journal the requests that the ledger lacks.

    An open attempt is adopted. A landed one of today's configuration is left alone if `keep(entry)`, its file still lies there with
    its length and, with `recount`, the service still counts as many events as it holds (late events outdate it). `patience`: of
    these counts, by default their own. `waits`: see `SqlLedger.request`.

    Raises ConfigurationError, before anything is journalled, if a column is to be hashed and there is no key, or if other
    definitions, or a project of another ledger, land their files at the same paths.
    """
    check_mask_key(requests, pipeline.mask_key)
    _check_destination(pipeline, requests)
    answers = pipeline.ledger.request(requests, keep=keep, run_id=run_id, waits=waits)
    landed = {i: a.entry for i, a in enumerate(answers) if not a.created and a.entry.status is Status.LANDED}
    problems: dict[str, KeenPipelineError] = {}
    gone = _gone(pipeline, landed, problems)
    late = _late(pipeline, [e for i, e in landed.items() if i not in gone], problems, patience) if recount else set()
    again = [i for i, entry in landed.items() if i in gone or entry.entry_id in late]
    if again:
        renewed = pipeline.ledger.request([requests[i] for i in again], keep=lambda _: False, run_id=run_id, waits=waits)
        for index, answer in zip(again, renewed, strict=True):
            answers[index] = answer
    return Submission(tuple(answers), problems)


def _check_destination(pipeline: Pipeline, requests: Sequence[ExtractionRequest]) -> None:
    paths, root = [request.path for request in requests], pipeline.destination.uri
    others = sorted(pipeline.ledger.others_at(paths))
    if others:
        raise ConfigurationError(
            f"{', '.join(map(repr, others))} and {pipeline.scope.name!r} land the same files at {root}: "
            "give one of them another destination, or its old name if it was renamed; nothing was asked for"
        )
    unknown = manifests.of_other_ledgers(pipeline.ledger, manifests.some_of(pipeline.destination, paths))
    foreign = [manifest for manifest in unknown if not manifest.is_of(pipeline.scope)]
    if foreign:
        raise ConfigurationError(
            f"{root} holds files of another ledger, such as {foreign[0]}: give one of the two another destination, or remove these "
            "files and their manifests; nothing was asked for"
        )
    if unknown:
        _log.warning(
            "%s holds files that this ledger has not landed, such as %s: if another ledger lands there too, give one of the two "
            "another destination; if this one was lost: keen-pipeline ledger rebuild",
            root,
            unknown[0],
        )


def _gone(pipeline: Pipeline, landed: Mapping[int, Entry], problems: dict[str, KeenPipelineError]) -> set[int]:
    """The positions of landed files that are gone or have another length; `problems` gets what can't be looked at now."""

    def is_gone(entry: Entry) -> bool:
        assert entry.landing is not None
        try:
            return pipeline.destination.exists(entry.landing.uri) != entry.landing.stored_bytes
        except KeenPipelineError as error:
            problems[entry.request.collection] = error
            return False

    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="keen-look") as pool:
        return {index for index, gone in zip(landed, pool.map(is_gone, landed.values()), strict=True) if gone}


def _late(
    pipeline: Pipeline, landed: Sequence[Entry], problems: dict[str, KeenPipelineError], patience: Patience | None
) -> set[int]:
    """Ids of landed entries whose file no longer holds what the service counts; `problems` gets what can't be counted now."""
    late: set[int] = set()
    checked = [e for e in landed if e.request.count_check is not CountPolicy.OFF]
    checked.sort(key=lambda e: e.request.timeframe.start)
    patience = patience or Patience()
    # The oldest by itself: in a sum an event that is gone hides one that came late, and a night sees this one for the last time.
    counted = (count_landed(pipeline, some, patience) for some in (checked[:1], checked[1:]))
    for entries, answer in chain.from_iterable(counted):
        if isinstance(answer, KeenPipelineError):
            problems[entries[0].request.collection] = answer
        else:
            late.update(entry.entry_id for entry in answer if is_late(entry))
    return late


def requests_of_a_night(pipeline: Pipeline, collection: Collection, as_of: datetime) -> list[ExtractionRequest]:
    """What a night at `as_of` wants of a collection, newest first.

    The partitions of its lookback, but for those that a person has cancelled; and of those before, at most `catch_up` that are
    missing between the first that landed and the lookback.
    """
    states = {state.key: state for state in pipeline.ledger.partitions(collection.name)}
    recent = due_partitions(collection, as_of)
    wanted = [p for p in recent if p.key not in states or states[p.key].status is not Status.CANCELLED]
    older = gaps(ended_partitions(collection, as_of), states)
    keys = {p.key for p in recent}
    wanted += [p for p in reversed(older) if p.key not in keys][: collection.catch_up]
    wanted.sort(key=lambda p: p.timeframe.start, reverse=True)
    return [partition_request(collection, p, mask_key=pipeline.mask_key) for p in wanted]


def gaps(ended: Iterable[Partition], states: Mapping[str, PartitionState]) -> list[Partition]:
    """Those of the `ended` partitions since the first that landed that have no file, and that nobody works on or has given up."""
    first = min((state.start for state in states.values() if state.landed), default=EVER)
    after = (p for p in ended if p.timeframe.start >= first)
    return [p for p in after if p.key not in states or not (states[p.key].landed or _is_settled(states[p.key]))]


def _is_settled(state: PartitionState) -> bool:
    return not state.status.is_terminal or state.status in (Status.ABANDONED, Status.CANCELLED)
