"""What is asked of Keen and what comes of it: requests, remote extractions, landings."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from keen_pipeline.collection import CountPolicy, Encoding, MaskMethod
from keen_pipeline.filters import Filter
from keen_pipeline.scope import Scope
from keen_pipeline.timeframe import Timeframe

# Says what it is for, so that the digest of a key says nothing about its hashes.
_KEY_DIGEST = b"keen_pipeline: which key masks a file"


class Kind(str, Enum):
    """What a request is: a partition of an asset, somebody's `ad_hoc` extraction, or a `slice` of one that is too large."""

    PARTITION = "partition"
    AD_HOC = "ad_hoc"
    SLICE = "slice"


@dataclass(frozen=True)
class ExtractionRequest:
    """What is asked: the events of one collection in one timeframe that pass the filters, and how they land.

    `partition_key`: Dagster's key, or `{start}_{end}` for an ad hoc extraction.
    `path`: of the file, below the destination's root.
    `encoding`: how the file is written.
    `mask`: what is done to which columns of the file; `mask_key`: a digest of the key of its hashes, None if nothing is hashed.
    `count_check`: what a wrong number of events means.
    `email`: Keen also mails its own notice there.
    """

    collection: str
    timeframe: Timeframe
    partition_key: str
    path: str
    kind: Kind = Kind.PARTITION
    filters: tuple[Filter, ...] = ()
    encoding: Encoding = Encoding.CSV
    mask: Mapping[str, MaskMethod] = field(default_factory=dict, hash=False)
    mask_key: str | None = None
    count_check: CountPolicy = CountPolicy.FAIL
    email: str | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Collection and partition key: at most one request of a scope is open for each."""
        return self.collection, self.partition_key

    def asks_as(self, other: ExtractionRequest) -> bool:
        """Whether the service is asked for the same events, wherever they land."""
        same = self.collection == other.collection and self.timeframe == other.timeframe
        return same and filters_identity(self.filters) == filters_identity(other.filters)

    def fingerprint(self, scope: Scope) -> str:
        """A hash of all that decides the file's bytes and place, 32 hexadecimal digits; filters count in any order."""
        asked = {
            "source": scope.source,
            "destination": scope.destination,
            "collection": self.collection,
            "timeframe": self.timeframe.to_wire(),
            "filters": filters_identity(self.filters),
            "path": self.path,
            "encoding": self.encoding.value,
            "mask": {name: method.value for name, method in self.mask.items()},
            "mask_key": self.mask_key,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def selection(self) -> str:
        """Equal for requests that let the same events through and mask the same in them, whatever their timeframe."""
        mask = sorted((name, method.value) for name, method in self.mask.items())
        return json.dumps([filters_identity(self.filters), mask, self.mask_key])

    def __str__(self) -> str:
        return f"{self.collection}[{self.partition_key}]"


def filters_identity(filters: tuple[Filter, ...]) -> str:
    """Equal for filters that let the same events through, whatever their order."""
    return json.dumps(sorted(json.dumps(f.to_wire(), sort_keys=True) for f in filters))


def mask_key_digest(key: bytes | None, mask: Mapping[str, MaskMethod]) -> str | None:
    """What tells one key of hashes from another without giving it away; None if nothing is hashed or there is no key."""
    if key is None or MaskMethod.HASH not in mask.values():
        return None
    return hmac.new(key, _KEY_DIGEST, hashlib.sha256).hexdigest()[:16]


class Status(str, Enum):
    """Where one attempt of a request stands in the ledger.

    requested ▶ submitted ▶ complete ▶ landed is the good way. `split`: its slices of time are extracted instead, and it is
    complete when all of them have landed. `failed` is the end of an attempt that another one
    follows, `abandoned` the end of the last one, `cancelled` a person's or a configuration's end, `superseded` a landing
    whose file was replaced by a newer one.
    """

    REQUESTED = "requested"
    SUBMITTED = "submitted"
    SPLIT = "split"
    COMPLETE = "complete"
    LANDED = "landed"
    FAILED = "failed"
    ABANDONED = "abandoned"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more happens to this attempt by itself."""
        return self not in OPEN_STATUSES


OPEN_STATUSES = frozenset({Status.REQUESTED, Status.SUBMITTED, Status.SPLIT, Status.COMPLETE})


class SecretUrl:
    """A results URL. Its signature opens the file, so it never shows itself; only `reveal()` gives it."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def reveal(self) -> str:
        """The URL itself, for the request that needs it."""
        return self._url

    def __repr__(self) -> str:
        return "SecretUrl(***)"

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise TypeError("a results URL is never pickled")


class RemoteStatus(str, Enum):
    """What the service says of an extraction, in three words."""

    PENDING = "pending"
    COMPLETE = "complete"
    FAILED = "failed"

    @classmethod
    def from_wire(cls, text: object) -> RemoteStatus:
        """Keen documents `not started` and `complete`; an unknown word means "not finished yet"."""
        word = str(text).strip().lower()
        if word == "complete":
            return cls.COMPLETE
        return cls.FAILED if word in ("failed", "error", "cancelled", "canceled", "expired") else cls.PENDING


@dataclass(frozen=True)
class Asked:
    """When an extraction was made, and for what."""

    created_at: datetime
    timeframe: Timeframe
    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class RemoteExtraction:
    """One extraction as the service reports it.

    `asked`: reads what the service says of its request when that is needed (seldom); None if it says nothing, as Keen's own.
    """

    extraction_id: str
    status: RemoteStatus
    results_url: SecretUrl | None = None
    message: str | None = None
    asked: Callable[[], Asked | None] = field(default=lambda: None, compare=False, repr=False)

    def is_of(self, request: ExtractionRequest, posted_at: datetime, slack: timedelta) -> bool:
        """Whether the service says that this is what a POST of `request` at `posted_at` made; clocks may differ by `slack`."""
        asked = self.asked()
        if asked is None or filters_identity(asked.filters) != filters_identity(request.filters):
            return False
        return asked.timeframe == request.timeframe and asked.created_at >= posted_at - slack


@dataclass(frozen=True)
class Landing:
    """The proof of a landed file. `bytes`, `sha256` and `records` are of the CSV as Keen sent it, header not counted.

    `stored_bytes` is the size of the file at the destination, which differs if the encoding compresses. `column_types`: of a
    parquet file, the type of each column in Arrow's words; empty for CSV, whose columns have none.
    `property_types`: for each column Keen's word for its property when it landed (`num`, `string`, ...), empty if Keen has none
    or several; an empty tuple if Keen did not tell. `masked`: by column of the mask what was done: `hash`, `mask`, `drop`, or
    `absent` if the file has no such column. `columns` are those of the written file, without the dropped ones.
    `stored_sha256`: of the file as it lies at the destination; its manifest keeps it, the ledger doesn't.
    """

    uri: str
    bytes: int
    records: int
    sha256: str
    columns: tuple[str, ...]
    stored_bytes: int
    seconds: float
    column_types: tuple[str, ...] = ()
    property_types: tuple[str, ...] = ()
    masked: Mapping[str, str] = field(default_factory=dict, hash=False)
    stored_sha256: str | None = None
