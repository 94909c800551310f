"""Which files hold which partitions, and what their columns are: the ledger's landings under one destination."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.extraction import Encoding
from keen_pipeline.landing.layout import parse_target
from keen_pipeline.lifecycle import Entry
from keen_pipeline.ports import Ledger

_LISTED = 10
_EVER = datetime.min.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class LandedFile:
    """One landed partition. `columns`: its header; `words`: Keen's type of each of them when it landed, empty if Keen had none or
    several, and an empty tuple if Keen did not tell; `records`: its events; `masked`: its columns with other values than Keen's.
    """

    collection: str
    partition_key: str
    uri: str
    encoding: Encoding
    columns: tuple[str, ...]
    records: int
    sha256: str
    words: tuple[str, ...] = ()
    masked: frozenset[str] = frozenset()


def landed_files(ledger: Ledger, root: str, collection: str, wanted: Mapping[str, str] | None = None) -> Mapping[str, LandedFile]:
    """By partition key, in the order of time. `wanted`: as in `current_landings`."""
    here = [entry for entry in ledger.landed_entries(collection) if _encoding(root, entry) is not None]
    return {key: _file(root, entry) for key, entry in current_landings(here, wanted).items()}


def current_landings(entries: Iterable[Entry], wanted: Mapping[str, str] | None = None) -> dict[str, Entry]:
    """For each partition the one landing that may be read, in the order of time.

    `wanted`: by partition the fingerprint of what today's configuration asks for; a partition that landed only by another
    configuration is not landed then. Without `wanted` the newest landing of a partition counts.
    """
    found: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda one: one.landed_at or _EVER):
        key = entry.request.partition_key
        if wanted is None or wanted.get(key) == entry.request.fingerprint:
            found[key] = entry
    return dict(sorted(found.items(), key=lambda item: (item[1].request.timeframe.start, item[0])))


def require(collection: str, keys: Sequence[str], landed: Mapping[str, LandedFile], root: str) -> None:
    """Raises ConfigurationError naming the partitions among `keys` that are not landed."""
    missing = [key for key in keys if key not in landed]
    if missing:
        listed = ", ".join(missing[:_LISTED]) + (f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else "")
        raise ConfigurationError(
            f"{collection}: {len(missing)} of {len(keys)} partitions are not landed at {root}: {listed}; "
            "materialize them, or set missing='empty' to go on without them"
        )


def _encoding(root: str, entry: Entry) -> Encoding | None:
    """How the file of a landing is written; None if it does not lie at this destination."""
    assert entry.landing is not None
    try:
        return parse_target(root, entry.landing.uri).encoding
    except InvalidInputError:
        return None


def _file(root: str, entry: Entry) -> LandedFile:
    landing, encoding = entry.landing, _encoding(root, entry)
    assert landing is not None
    assert encoding is not None
    return LandedFile(
        entry.request.collection,
        entry.request.partition_key,
        landing.uri,
        encoding,
        landing.columns,
        landing.records,
        landing.sha256,
        landing.property_types,
        frozenset(landing.masked) & frozenset(landing.columns),
    )
