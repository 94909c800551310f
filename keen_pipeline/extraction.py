"""What is asked of Keen and what comes of it: collections, requests, remote extractions, landings."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.filters import Filter
from keen_pipeline.timeframe import Timeframe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\- ]{0,255}")


def check_collection_name(name: object) -> str:
    """Return `name` where it is a legal event collection, else raise InvalidInputError.

    Legal: 1 to 256 characters of letters, digits, `_ . -` and blanks, not starting with `_`, `.`, `-`, blank or `keen`,
    and without `..`, so that a name can never leave its folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or name.lower().startswith("keen"):
        raise InvalidInputError(
            f"collection: {name!r} is not a legal name (1 to 256 letters, digits, '_', '.', '-', blanks; "
            "it may not start with '_', '.', '-', a blank or 'keen', nor hold '..')",
            field="collection",
        )
    return name


class Granularity(str, Enum):
    """The length of one partition of a collection. Weeks start on Sunday, as Keen's do."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class Encoding(str, Enum):
    """How a landed file is written; the value is its suffix after the partition key."""

    CSV = "csv"
    CSV_GZ = "csv.gz"
    CSV_ZST = "csv.zst"
    PARQUET = "parquet"


class CountPolicy(str, Enum):
    """What happens where a landed file does not hold the events that the service counts for it.

    `fail`: it is extracted again at once, as often as attempts are left, and then its check and its run fail. `warn`: its check
    warns. `off`: nothing is counted, before or after, so that nothing is split in advance or found to be late either.
    """

    FAIL = "fail"
    WARN = "warn"
    OFF = "off"


class CheckPolicy(str, Enum):
    """What it means where a landed partition differs from those before it.

    `fail`: its check fails as an error and holds downstream assets. `warn`: its check warns. `off`: there is no such check.
    """

    FAIL = "fail"
    WARN = "warn"
    OFF = "off"


class MaskMethod(str, Enum):
    """What happens to a column of personal data before anything of it is written.

    `hash`: equal values become equal hashes under the key `KEEN_PIPELINE_MASK_KEY`, so that they still join. `mask`: every value
    becomes `***`. `drop`: the column is left out.
    """

    HASH = "hash"
    DROP = "drop"
    MASK = "mask"


@dataclass(frozen=True)
class Collection:
    """One event collection that the pipeline extracts.

    `name`: Keen's event collection. `start_date`: the first partition, `YYYY-MM-DD` in `timezone`.
    `granularity`: hourly, daily (default), weekly or monthly. `timezone`: an IANA name, UTC by default; partitions start
    at its midnights. `filters`: all must hold. `encoding`: of the landed file. `lookback_days`: how many days back the
    nightly job looks for partitions that are not landed yet or that grew since (1 to 366). `count_check`: what happens where a
    file lacks events that the service counts: fail (default), warn or off. `email`: Keen also mails its own notice there.
    `mask`: by column, as `body:user:email`, what happens to it before anything of it is written: hash, mask or drop.
    `schema_check`: of columns that came, went or changed their type since the partition before; `size_check`: of a number of events
    far from that of the weeks before. `fresh_within_hours`: a partition shall have landed so long after its end (1 to 8784), None
    for no such check. `run_tags`: of the runs and steps that land it, by which run launchers and executors know its memory, CPU or
    queue; a mapping or list as a value becomes its JSON. Collections with other tags are landed by other runs.

    >>> Collection(name="purchases", start_date="2026-01-01").asset_key
    ('keen', 'purchases')

    Raises InvalidInputError naming the field.
    """

    name: str
    start_date: str | date
    granularity: Granularity = Granularity.DAILY
    timezone: str = "UTC"
    filters: tuple[Filter, ...] = ()
    encoding: Encoding = Encoding.CSV
    lookback_days: int = 3
    count_check: CountPolicy = CountPolicy.FAIL
    email: str | None = None
    description: str | None = None
    owners: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    mask: Mapping[str, MaskMethod] = field(default_factory=dict, hash=False)
    schema_check: CheckPolicy = CheckPolicy.WARN
    size_check: CheckPolicy = CheckPolicy.WARN
    fresh_within_hours: float | None = None
    run_tags: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_collection_name(self.name)
        put = object.__setattr__
        put(self, "start_date", _date(self.start_date, f"collection {self.name}: start_date"))
        put(self, "granularity", _member(Granularity, self.granularity, f"collection {self.name}: granularity"))
        put(self, "encoding", _member(Encoding, self.encoding, f"collection {self.name}: encoding"))
        put(self, "count_check", _member(CountPolicy, self.count_check, f"collection {self.name}: count_check"))
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            raise InvalidInputError(f"collection {self.name}: unknown timezone {self.timezone!r}", field="timezone") from None
        put(self, "filters", tuple(f if isinstance(f, Filter) else Filter.from_wire(f) for f in self.filters))
        put(self, "owners", tuple(self.owners))
        put(self, "tags", dict(self.tags))
        for name in ("schema_check", "size_check"):
            put(self, name, _member(CheckPolicy, getattr(self, name), f"collection {self.name}: {name}"))
        hours = self.fresh_within_hours
        if hours is not None and (isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 1 <= hours <= 8784):
            what = f"collection {self.name}: fresh_within_hours must be 1 to 8784"
            raise InvalidInputError(f"{what}, not {hours!r}", field="fresh_within_hours")
        put(self, "mask", _mask(self.mask, f"collection {self.name}: mask"))
        put(self, "run_tags", _run_tags(self.run_tags, f"collection {self.name}: run_tags"))
        days = self.lookback_days
        if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= 366:
            raise InvalidInputError(f"collection {self.name}: lookback_days must be 1 to 366, not {days!r}", field="lookback_days")

    @property
    def asset_key(self) -> tuple[str, str]:
        """The path of the Dagster asset key."""
        return ("keen", self.name)

    @property
    def start(self) -> date:
        """`start_date` as a date."""
        assert isinstance(self.start_date, date)
        return self.start_date


@dataclass(frozen=True)
class ExtractionRequest:
    """What is asked: the events of one collection in one timeframe that pass the filters, and where they shall land.

    `partition_key` is Dagster's key, or `{start}_{end}` for an ad hoc extraction. `target` is the URI of the file.
    `count_check` says what a wrong number of events means, `mask` what is done to which columns of the file.
    """

    collection: str
    timeframe: Timeframe
    partition_key: str
    target: str
    filters: tuple[Filter, ...] = ()
    email: str | None = None
    count_check: CountPolicy = CountPolicy.FAIL
    mask: Mapping[str, MaskMethod] = field(default_factory=dict, hash=False)

    @property
    def fingerprint(self) -> str:
        """Identity of what is asked (collection, timeframe, filters in any order, mask), 32 hexadecimal digits."""
        filters = sorted(json.dumps(f.to_wire(), sort_keys=True) for f in self.filters)
        asked: list[object] = [self.collection, self.timeframe.to_wire(), filters]
        if self.mask:  # another mask makes another file, which is asked for again
            asked.append({name: method.value for name, method in self.mask.items()})
        text = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def __str__(self) -> str:
        return f"{self.collection}[{self.partition_key}]"


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
class RemoteExtraction:
    """One extraction as the service reports it.

    `created_at`, `timeframe` and `filters` (as on the wire) are None where the service does not say them; Keen's own does not.
    """

    extraction_id: str
    status: RemoteStatus
    results_url: SecretUrl | None = None
    message: str | None = None
    created_at: datetime | None = None
    timeframe: Timeframe | None = None
    filters: tuple[Filter, ...] | None = None

    def is_of(self, request: ExtractionRequest, posted_at: datetime, slack: timedelta) -> bool:
        """Whether the service says that this is what a POST of `request` at `posted_at` made; clocks may differ by `slack`."""
        if self.created_at is None or self.timeframe is None or self.filters is None:
            return False
        same = {json.dumps(f.to_wire(), sort_keys=True) for f in self.filters} == {
            json.dumps(f.to_wire(), sort_keys=True) for f in request.filters
        }
        return same and self.timeframe == request.timeframe and self.created_at >= posted_at - slack


@dataclass(frozen=True)
class Landing:
    """The proof of a landed file. `bytes`, `sha256` and `records` are of the CSV as Keen sent it, header not counted.

    `stored_bytes` is the size of the file at the destination, which differs where the encoding compresses. `column_types`: of a
    parquet file, the type of each column in Arrow's words; empty for CSV, whose columns have none.
    `property_types`: for each column Keen's word for its property when it landed (`num`, `string`, ...), empty where Keen has none
    or several; an empty tuple where Keen did not tell. `masked`: by column of the mask what was done: `hash`, `mask`, `drop`, or
    `absent` where the file has no such column. `columns` are those of the written file, without the dropped ones.
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


def _mask(value: object, what: str) -> dict[str, MaskMethod]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} must be a mapping of columns to hash, mask or drop, not {value!r}", field="mask")
    for name in value:
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"{what}: {name!r} is not the name of a column, as body:user:email", field="mask")
    return {name: _member(MaskMethod, method, f"{what} of {name}:") for name, method in value.items()}


def _run_tags(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} must be a mapping of tags to texts or mappings, not {value!r}", field="run_tags")
    tags: dict[str, str] = {}
    for name, tag in value.items():
        if not isinstance(name, str) or not name or not isinstance(tag, (str, Mapping, list)):
            raise InvalidInputError(f"{what}: {name!r}: {tag!r} is no tag with a text or a mapping", field="run_tags")
        try:
            tags[name] = tag if isinstance(tag, str) else json.dumps(tag, sort_keys=True)
        except (TypeError, ValueError):
            raise InvalidInputError(f"{what}: the value of {name} is not JSON", field="run_tags") from None
    return tags


def _date(value: object, what: str) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise InvalidInputError(f"{what} must be YYYY-MM-DD, not {value!r}", field="start_date") from None


def _member(kind: Any, value: object, what: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InvalidInputError(
            f"{what} must be one of {', '.join(m.value for m in kind)}, not {value!r}", field=what.rsplit(" ", 1)[-1]
        ) from None
