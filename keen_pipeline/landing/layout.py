"""Where a file lies below a destination's root. Pure; nothing here is ever read back out of a path.

`{collection}/{partition_key}.{csv|csv.gz|csv.zst|parquet}`, or `{collection}/date={date}/events.{...}` with the layout hive
(hourly: `date={date}/hour={hour}/`). A collection's name is percent-encoded but for letters, digits, `_ . -` and blanks. Beside the
collections lie `_quarantine/` (what was kept aside), `_slices/` (parts that wait to be put together), `_unique/` (lists of unique
values) and `_manifests/`; a collection's name can't begin with `_`, so they never meet.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from urllib.parse import quote

from keen_pipeline.collection import Encoding, Layout, check_collection_name
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.timeframe import Timeframe, format_instant

QUARANTINE = "_quarantine"
SLICES = "_slices"
UNIQUE = "_unique"
MANIFESTS = "_manifests"
LATEST = "latest"
"""What stands for the partition key of a list of all events."""
REASON_SUFFIX = ".reason.txt"

# Dagster's keys (2026-01-31, 2026-01-31-08:00) and ad hoc ones; no separator, no leading dot, nothing a shell or URL splits at.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+\-]{0,199}")
_HOUR = re.compile(r"(\d{4}-\d{2}-\d{2})-(\d{2}):00([+-]\d{4})?")
_LONGEST_NAME = 255  # bytes that common file systems take


@lru_cache(maxsize=1024)
def collection_folder(collection: str) -> str:
    """The folder of a collection's files. Raises InvalidInputError for a name that is none.

    >>> collection_folder("Sign Ups"), collection_folder("user:signup"), collection_folder("..")
    ('Sign Ups', 'user%3Asignup', '%2E.')
    """
    name = quote(check_collection_name(collection), safe=" ")
    return _bounded(f"%2E{name[1:]}" if name.startswith(".") else name.replace("~", "%7E"), _LONGEST_NAME, collection)


def _bounded(quoted: str, room: int, name: str) -> str:
    """A quoted name of at most `room` bytes. What is cut may be where two names differ, so a digest stands for it."""
    if len(quoted) <= room:
        return quoted
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{quoted[: room - len(digest) - 1]}-{digest}"


def ad_hoc_key(timeframe: Timeframe) -> str:
    """The partition key of an ad hoc extraction: `{start}_{end}` in ISO-8601's basic form, which every file system takes.

    >>> from datetime import datetime, timezone
    >>> day = Timeframe(datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))
    >>> ad_hoc_key(day)
    '20260101T000000Z_20260102T000000Z'
    """
    return "_".join(re.sub(r"[-:]", "", format_instant(moment)) for moment in (timeframe.start, timeframe.end))


def file_path(collection: str, partition_key: str, encoding: Encoding = Encoding.CSV, layout: Layout = Layout.PLAIN) -> str:
    """The path of one partition's file. Raises InvalidInputError for a name or key that could leave its folder.

    >>> file_path("purchases", "2026-01-01", Encoding.PARQUET, Layout.HIVE)
    'purchases/date=2026-01-01/events.parquet'
    >>> file_path("purchases", "2026-10-25-01:00+0100", layout=Layout.HIVE)
    'purchases/date=2026-10-25/hour=01/events+0100.csv'
    """
    folder = collection_folder(collection)
    if not _KEY.fullmatch(partition_key) or ".." in partition_key:
        raise InvalidInputError(f"partition key {partition_key!r} can't be a file name", field="partition_key")
    if layout is Layout.PLAIN:
        return f"{folder}/{partition_key}.{encoding.value}"
    hour = _HOUR.fullmatch(partition_key)
    if hour is None:
        return f"{folder}/date={partition_key}/events.{encoding.value}"
    # The second of two equal local hours has its offset in the name, and the same folder.
    return f"{folder}/date={hour[1]}/hour={hour[2]}/events{hour[3] or ''}.{encoding.value}"


def slice_path(collection: str, partition_key: str) -> str:
    """The path of a part that waits to be put together with others; always CSV."""
    return f"{SLICES}/{file_path(collection, partition_key)}"


def list_path(collection: str, property_name: str, partition_key: str) -> str:
    """The path of the list of a property's unique values. Raises InvalidInputError as `file_path` does.

    >>> list_path("purchases", "body:user:id", "2026-01-01")
    '_unique/purchases/2026-01-01.body%3Auser%3Aid.json'
    """
    place = file_path(collection, partition_key).removesuffix(f".{Encoding.CSV.value}")
    room = min(200, 250 - len(partition_key) - len("..json"))
    return f"{UNIQUE}/{place}.{_bounded(quote(property_name, safe=''), room, property_name)}.json"


def manifest_path(path: str) -> str:
    """The path of the manifest of the file at `path`."""
    return f"{MANIFESTS}/{path}.json"


def quarantine_path(path: str, extraction_id: str) -> str:
    """Where what was received for `path` is kept aside, one place for each extraction.

    >>> quarantine_path("purchases/2026-01-01.csv.gz", "a/b")
    '_quarantine/purchases/2026-01-01.a-b.csv.gz'
    """
    identity = re.sub(r"[^A-Za-z0-9_-]", "-", extraction_id)[:80] or "unknown"
    suffix = encoding_of(path).value
    return f"{QUARANTINE}/{path.removesuffix(f'.{suffix}')}.{identity}.{suffix}"


def encoding_of(path: str) -> Encoding:
    """How a file of this name is written. Raises InvalidInputError if its suffix is none of ours."""
    for encoding in Encoding:
        if path.endswith(f".{encoding.value}"):
            return encoding
    names = ", ".join(f".{one.value}" for one in Encoding)
    raise InvalidInputError(f"{path} ends in none of {names}", field="path")


def path_below(root: str, uri: str) -> str:
    """The path of a file of a destination below its root. Raises InvalidInputError if `uri` lies elsewhere."""
    path = uri.removeprefix(f"{root.rstrip('/')}/")
    if path == uri or not path.isprintable() or {"", ".", ".."} & set(path.split("/")):
        raise InvalidInputError(f"{uri} is not a file below {root}", field="uri")
    return path


_TIME = r"\d{4}-\d{2}-\d{2}(?:-\d{2}:\d{2}(?:[+-]\d{4})?)?"
_SPAN = r"\d{8}T\d{6}(?:\.\d+)?Z_\d{8}T\d{6}(?:\.\d+)?Z"
_OURS = re.compile(
    rf"(?:{SLICES}/|{QUARANTINE}/(?:{SLICES}/)?)?(?!\.{{1,2}}/)[^/_][^/]*/"
    rf"(?:{_TIME}|(?:[0-9a-z-]+\.)?{_SPAN}|date=\d{{4}}-\d{{2}}-\d{{2}}(?:/hour=\d{{2}})?/events(?:[+-]\d{{4}})?)(?:\.[A-Za-z0-9_-]+)?"
    rf"\.(?:{'|'.join(re.escape(one.value) for one in Encoding)})(?:{re.escape(REASON_SUFFIX)})?"
)


def is_ours(root: str, uri: str) -> bool:
    """Whether a landing under `root` can have begun to write this file: a landed one, a slice, or one kept aside.

    >>> is_ours("s3://b", "s3://b/purchases/2026-01-01.csv"), is_ours("s3://b", "s3://b/backups/database.tar")
    (True, False)
    """
    folder = f"{root.rstrip('/')}/"
    return uri.startswith(folder) and _OURS.fullmatch(uri.removeprefix(folder)) is not None
