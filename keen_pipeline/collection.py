"""The event collections that the pipeline extracts, and the policies that each of them may choose."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.filters import Filter

# Printable ASCII but `$`: what Keen's own clients let through.
_NAME = re.compile(r"[ -#%-~]{1,256}")
_EMAIL = re.compile(r"[^@\s,;<>]{1,64}@[^@\s,;<>]{1,255}")
# What Dagster takes; its own refusal would come once the code location loads, and not say which field it is about.
_OWNER = re.compile(r"team:.+|\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Z|a-z]{2,7}\b", re.DOTALL)
_TAG_NAME = re.compile(r"(?:[A-Za-z0-9_.-]{1,63}/|dagster/kind/)?[A-Za-z0-9_.-]{1,63}")
_TAG = re.compile(r"[A-Za-z0-9_.-]{0,63}")
# Of the system's database of zones, but no IANA names: this machine's own zone, and copies that count leap seconds or don't.
_NO_ZONES = ("localtime", "posixrules", "Factory", "right/", "posix/")
DEFAULT_START_DATE = date(2020, 1, 1)
# Partitions before and after them, in any zone, have an instant too.
FIRST_START_DATE, LAST_START_DATE = date(1970, 1, 1), date(2999, 12, 31)
MOST_LOOKBACK_DAYS = 366
MOST_CATCH_UP = 10_000


def is_collection_name(name: str) -> bool:
    """Whether an event collection may be called so; of a project's list, some are Keen's own, which begin with an underscore."""
    return bool(_NAME.fullmatch(name)) and not name.startswith("_") and name == name.strip()


def check_collection_name(name: object) -> str:
    """Return `name` if it is a legal event collection, else raise InvalidInputError.

    Legal: 1 to 256 printable ASCII characters without `$`, neither beginning with `_` nor beginning or ending with a blank.
    Files and folders are named by the percent-encoded name, so it can never leave its folder.
    """
    if not isinstance(name, str):  # as YAML reads 123 or no
        raise InvalidInputError(f"collection: {name!r} isn't text; put its name in quotes", field="collection")
    if not is_collection_name(name):
        raise InvalidInputError(
            f"collection: {name!r} is not a legal name (1 to 256 printable ASCII characters without '$', not beginning with '_', "
            "no blank at either end)",
            field="collection",
        )
    return name


def check_email(email: object, where: str) -> None:
    """Raises InvalidInputError if it is neither None nor one address."""
    if email is not None and not (isinstance(email, str) and _EMAIL.fullmatch(email) and email.isprintable()):
        raise InvalidInputError(f"{where}: email must be one address, not {email!r}", field="email")


class Granularity(str, Enum):
    """The length of one partition of a collection. Weeks start on Sunday, as Keen's do."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class Encoding(str, Enum):
    """How a landed file is written; the value is the suffix of its name."""

    CSV = "csv"
    CSV_GZ = "csv.gz"
    CSV_ZST = "csv.zst"
    PARQUET = "parquet"


class Layout(str, Enum):
    """Where a partition's file lies below the destination's root.

    `plain`: `purchases/2026-01-01.csv`. `hive`: `purchases/date=2026-01-01/events.csv` (hourly: `date=2026-01-01/hour=08/`),
    which Athena, Spark, DuckDB and polars read as one partitioned table.
    """

    PLAIN = "plain"
    HIVE = "hive"


class CountPolicy(str, Enum):
    """What happens if a landed file does not hold the events that the service counts for it.

    `fail`: it is extracted again, as often as attempts are left, and then its check and its run fail. `warn`: its check
    warns. `off`: nothing is counted, before or after, so nothing is split in advance or found to be late either.
    """

    FAIL = "fail"
    WARN = "warn"
    OFF = "off"


class CheckPolicy(str, Enum):
    """What it means if a landed partition differs from those before it.

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


ABSENT = "absent"
"""What was done by a name of a mask that covers no column of the file."""
_NAMESPACES = ("header:", "body:")


@dataclass(frozen=True)
class Collection:
    """One event collection that the pipeline extracts. Raises InvalidInputError naming the field.

    `name`: Keen's event collection.
    `start_date`: the first partition, `YYYY-MM-DD` in `timezone` (1970-01-01 to 2999-12-31, 2020-01-01 by default).
    `granularity`: hourly, daily (default), weekly or monthly.
    `timezone`: an IANA name, UTC by default; partitions start at its midnights.
    `filters`: all of them must hold.
    `encoding`: of the landed file.
    `layout`: of its path, plain (default) or hive.
    `lookback_days`: how many days back the nightly job looks for partitions that grew or are out of date (1 to 366).
    `catch_up`: how many older partitions, missing since the first landed, the nightly job asks for in one night (0 to 10000).
    `cron`: when the nightly job asks for this collection, in `timezone`; by default after each partition's end.
    `count_check`: what happens if a file lacks events that the service counts: fail (default), warn or off.
    `schema_check`: of columns that came, went or changed their type since the partition before.
    `size_check`: of a number of events far from that of the weeks before.
    `fresh_within_hours`: how many hours after a partition ends it must have landed (1 to 8784), None for no such check.
    `email`: Keen also mails its own notice there.
    `mask`: by property, as `body:user:email` (or `user.email`), what happens to its column, or to those of all properties within
    it, before anything is written: hash, mask or drop.
    `description`, `owners`, `tags`: of the Dagster asset.
    `run_tags`: of the runs and steps that land it, by which run launchers and executors know its memory, CPU or queue; a mapping or
    list as a value becomes its JSON. Collections with other tags are landed by other runs.

    >>> Collection(name="purchases", start_date="2026-01-01").start
    datetime.date(2026, 1, 1)
    """

    name: str
    start_date: str | date = DEFAULT_START_DATE
    granularity: Granularity = Granularity.DAILY
    timezone: str = "UTC"
    filters: tuple[Filter, ...] = ()
    encoding: Encoding = Encoding.CSV
    layout: Layout = Layout.PLAIN
    lookback_days: int = 3
    catch_up: int = 31
    cron: str | None = None
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
        where = f"collection {self.name}"
        values: dict[str, Any] = {
            "start_date": _date(self.start_date, where),
            "filters": _filters(self.filters, where),
            "owners": _owners(self.owners, where),
            "tags": _tags(self.tags, where),
            "mask": _mask(self.mask, where),
            "run_tags": _run_tags(self.run_tags, where),
        }
        for name, kind in _CHOICES.items():
            values[name] = _member(kind, getattr(self, name), where, name)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        _check_zone(self.timezone, where)
        _check_whole(self.lookback_days, 1, MOST_LOOKBACK_DAYS, where, "lookback_days")
        _check_whole(self.catch_up, 0, MOST_CATCH_UP, where, "catch_up")
        _check_hours(self.fresh_within_hours, where)
        check_email(self.email, where)
        for name in ("description", "cron"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InvalidInputError(f"{where}: {name} must be text, not {value!r}", field=name)
        if self.cron is not None and len(self.cron.split()) != 5 and not self.cron.startswith("@"):  # Dagster knows the rest
            raise InvalidInputError(f"{where}: cron must be a schedule such as '0 1 * * *', not {self.cron!r}", field="cron")

    @property
    def start(self) -> date:
        """`start_date` as a date."""
        assert isinstance(self.start_date, date)
        return self.start_date


_CHOICES: Mapping[str, type[Enum]] = {
    "granularity": Granularity,
    "encoding": Encoding,
    "layout": Layout,
    "count_check": CountPolicy,
    "schema_check": CheckPolicy,
    "size_check": CheckPolicy,
}


def _check_zone(name: object, where: str) -> None:
    try:
        is_known = isinstance(name, str) and not name.startswith(_NO_ZONES) and bool(ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        is_known = False
    if not is_known:
        raise InvalidInputError(f"{where}: unknown timezone {name!r}", field="timezone")


def _check_whole(value: object, low: int, high: int, where: str, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidInputError(f"{where}: {name} must be a whole number from {low} to {high}, not {value!r}", field=name)


def _check_hours(hours: object, where: str) -> None:
    if hours is not None and (isinstance(hours, bool) or not isinstance(hours, (int, float)) or not 1 <= hours <= 8784):
        raise InvalidInputError(f"{where}: fresh_within_hours must be 1 to 8784, not {hours!r}", field="fresh_within_hours")


def _filters(value: object, where: str) -> tuple[Filter, ...]:
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise InvalidInputError(f"{where}: filters must be a list of filters, not {value!r}", field="filters")
    try:
        return tuple(one if isinstance(one, Filter) else Filter.from_wire(one) for one in value)
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}", field=error.field) from None


def _owners(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, str) for one in value):
        raise InvalidInputError(f"{where}: owners must be a list of strings, not {value!r}", field="owners")
    for one in value:
        if not _OWNER.fullmatch(one):
            raise InvalidInputError(f"{where}: owners: {one!r} is neither an address nor 'team:' and a name", field="owners")
    return tuple(value)


def _tags(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise InvalidInputError(f"{where}: tags must be a mapping of strings to strings, not {value!r}", field="tags")
    for name, tag in value.items():
        if not (_TAG_NAME.fullmatch(name) and _TAG.fullmatch(tag)):
            took = "at most 63 letters, digits, '_', '-' and '.'"
            raise InvalidInputError(f"{where}: tags: {name!r}: {tag!r} isn't a tag that Dagster takes ({took})", field="tags")
    return dict(value)


def _mask(value: object, where: str) -> dict[str, MaskMethod]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{where}: mask must map columns to hash, mask or drop, not {value!r}", field="mask")
    for name in value:
        if not isinstance(name, str) or not name:
            raise InvalidInputError(f"{where}: mask: {name!r} isn't a column name such as body:user:email", field="mask")
    mask = {_column(name): _member(MaskMethod, method, f"{where}: mask of {name}", "mask") for name, method in value.items()}
    if len(mask) < len(value):
        raise InvalidInputError(f"{where}: mask: two names are the same column ({', '.join(sorted(value))})", field="mask")
    return mask


def _column(name: str) -> str:
    """The column of a property that is named as in a filter, `user.email`, or as its column is, `body:user:email`."""
    return name if name.startswith(_NAMESPACES) else f"body:{name.replace('.', ':')}"


def masked_by(mask: Mapping[str, object], column: str) -> str | None:
    """The name in a mask that covers a column: its own, or that of an object around it; of several the innermost, else None."""
    path = _path(column)
    return max((name for name in mask if path[: len(_path(name))] == _path(name)), key=lambda name: len(_path(name)), default=None)


def check_listed(collection: str, mask: Mapping[str, object], property_name: str) -> None:
    """Raises InvalidInputError for a property that a collection masks: its values are for nobody to see."""
    if masked_by(mask, property_name):
        raise InvalidInputError(f"{collection}: {property_name} is masked, so its values can't be listed", field="property_name")


def _path(column: str) -> list[str]:
    # Keen's own CSV names columns without a namespace too, with points.
    return _column(column).split(":")


def _run_tags(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{where}: run_tags must map tags to strings or mappings, not {value!r}", field="run_tags")
    tags: dict[str, str] = {}
    for name, tag in value.items():
        if not isinstance(name, str) or not name or not isinstance(tag, (str, Mapping, list)):
            raise InvalidInputError(f"{where}: run_tags: {name!r}: {tag!r} isn't a tag with text or a mapping", field="run_tags")
        try:
            tags[name] = tag if isinstance(tag, str) else json.dumps(tag, sort_keys=True)
        except (TypeError, ValueError):
            raise InvalidInputError(f"{where}: run_tags: the value of {name} is not JSON", field="run_tags") from None
    return tags


def _date(value: object, where: str) -> date:
    if isinstance(value, datetime):
        value = value.date()
    try:
        day = value if isinstance(value, date) else date.fromisoformat(str(value))
    except ValueError:
        raise InvalidInputError(f"{where}: start_date must be YYYY-MM-DD, not {value!r}", field="start_date") from None
    if not FIRST_START_DATE <= day <= LAST_START_DATE:
        raise InvalidInputError(
            f"{where}: start_date must lie between {FIRST_START_DATE} and {LAST_START_DATE}, not {day}", field="start_date"
        )
    return day


def _member(kind: type[Enum], value: object, where: str, name: str) -> Any:
    # YAML 1.1 reads a bare `off` as False.
    given = "off" if value is False else value
    try:
        return kind(given)
    except ValueError:
        choices = ", ".join(str(member.value) for member in kind)
        raise InvalidInputError(f"{where}: {name} must be one of {choices}, not {value!r}", field=name) from None
