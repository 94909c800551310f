"""Which files hold which partitions: the ledger's landings under one destination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.ledger import SqlLedger as Ledger

_LISTED = 10
_EVER = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class LandedFile:
    """One landed partition. `columns`: its header; `records`: its events; `masked`: its columns with other values than Keen's."""

    collection: str
    partition_key: str
    uri: str
    encoding: Encoding
    columns: tuple[str, ...]
    records: int
    masked: frozenset[str] = frozenset()


def landed_files(ledger: Ledger, root: str, collection: str) -> Mapping[str, LandedFile]:
    """By partition key; where a partition landed in two encodings, the newer file."""
    found: dict[str, LandedFile] = {}
    for entry in sorted(ledger.landed_entries(collection), key=lambda e: e.landed_at or _EVER):
        assert entry.landing is not None
        place = entry.request
        landing = entry.landing
        found[place.partition_key] = LandedFile(
            collection,
            place.partition_key,
            landing.uri,
            place.encoding,
            landing.columns,
            landing.records,
            frozenset(landing.masked) & frozenset(landing.columns),
        )
    return found


def require(collection: str, keys: Sequence[str], landed: Mapping[str, LandedFile], root: str) -> None:
    """Raises ConfigurationError naming the partitions among `keys` that are not landed."""
    missing = [key for key in keys if key not in landed]
    if missing:
        listed = ", ".join(missing[:_LISTED]) + (f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else "")
        raise ConfigurationError(
            f"{collection}: {len(missing)} of {len(keys)} partitions are not landed at {root}: {listed}; "
            "materialize them, or set missing='empty' to go on without them"
        )
