"""Which files hold which partitions, and what their columns are: the ledger's landings under one destination."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.extraction import ExtractionRequest, Kind, Landing

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import SqlLedger

_LISTED = 10
_SHORTEST_DAY = timedelta(hours=23)
"""Less cannot be missing between two days of one zone."""


@dataclass(frozen=True)
class LandedFile:
    """One landed partition. `fingerprint`: of what was asked, empty if the file is unproven."""

    request: ExtractionRequest
    landing: Landing
    fingerprint: str


def landed_files(ledger: SqlLedger, collection: str) -> Mapping[str, LandedFile]:
    """By partition key, in the order of time."""
    return {
        entry.request.partition_key: LandedFile(entry.request, entry.landing, "" if entry.unproven else entry.fingerprint)
        for entry in ledger.landed_entries(collection)
        if entry.landing is not None
    }


def require(
    collection: str, keys: Sequence[str], landed: Mapping[str, LandedFile], root: str, others: Callable[[], Sequence[str]]
) -> None:
    """Raises ConfigurationError naming the partitions among `keys` that are not landed; `others`: the collections that have any."""
    missing = [key for key in keys if key not in landed]
    if missing:
        names = others() if not landed else ()
        doubt = f"; or is it misspelt? There are {listed(names)}" if names else ""
        raise ConfigurationError(
            f"{collection}: {len(missing)} of {len(keys)} partitions are not landed at {root}: {listed(missing)}; "
            f"materialize them; `keen-pipeline status` says why they are missing{doubt}"
        )


def refuse_outdated(collection: str, outdated: Sequence[str], keys: Sequence[str], root: str) -> None:
    """Raises ConfigurationError naming those of `keys` whose file today's configuration would not make, if there are any."""
    if outdated:
        raise ConfigurationError(
            f"{collection}: {len(outdated)} of {len(keys)} partitions at {root} were made with a different configuration than "
            f"today's, or are unproven: {listed(outdated)}; materialize them again"
        )


def refuse_mixed(collection: str, files: Mapping[str, LandedFile], root: str) -> None:
    """Raises ConfigurationError naming partitions unless all were made with one set of filters and one mask, in one zone."""
    by_selection: dict[str, list[str]] = {}
    for key, file in files.items():
        by_selection.setdefault(file.request.selection, []).append(key)
    if len(by_selection) > 1:
        fewest = min(by_selection.values(), key=len)
        raise ConfigurationError(
            f"{collection}: {len(fewest)} of {len(files)} partitions at {root} were made with a different filter or mask than the "
            f"others: {listed(fewest)}; materialize the outdated ones again, or read them apart"
        )
    requests = (file.request for file in files.values() if file.request.kind is Kind.PARTITION)
    in_order = sorted(requests, key=lambda request: request.timeframe.start)
    for one, other in pairwise(in_order):
        gap = other.timeframe.start - one.timeframe.end
        is_long = min(one.timeframe.end - one.timeframe.start, other.timeframe.end - other.timeframe.start) >= _SHORTEST_DAY
        if gap and gap < (_SHORTEST_DAY if is_long else timedelta(0)):
            raise ConfigurationError(
                f"{collection}: partitions {one.partition_key} and {other.partition_key} were made in different time zones or "
                "granularities: events are missing between them or in both; materialize the outdated one again, or read them apart"
            )


def listed(keys: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(keys[:_LISTED]) + (f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else "")
