"""Where a file lies: partition <-> URI. Pure.

`{root}/{collection}/{partition_key}.{csv|csv.gz|csv.zst|parquet}`. What is kept aside lies under `{root}/_quarantine/`,
slices that wait to be put together under `{root}/_slices/`, lists of unique values under `{root}/_unique/`; a collection's name
can't begin with `_`, so they never meet.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import quote

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import Encoding, check_collection_name
from keen_pipeline.timeframe import Timeframe, format_instant

QUARANTINE = "_quarantine"
SLICES = "_slices"
UNIQUE = "_unique"
LATEST = "latest"
"""What stands for the partition key of a list of all events."""
REASON_SUFFIX = ".reason.txt"

# Dagster's keys (2026-01-31, 2026-01-31-08:00) and ad hoc ones; no separator, no leading dot, nothing a shell or URL splits at.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+\-]{0,199}")
_LONGEST_PROPERTY = 200
_LONGEST_FILE_NAME = 250  # bytes; common file systems take 255
_INSTANT = re.compile(r"(\d{8}T\d{6})(?:\.(\d{3}|\d{6}))?Z")
# The longest first, so that `.csv.gz` is not read as a partition key that ends in `.csv`.
_ENCODINGS = sorted(Encoding, key=lambda encoding: len(encoding.value), reverse=True)


@dataclass(frozen=True)
class Place:
    """One file of the layout."""

    root: str
    collection: str
    partition_key: str
    encoding: Encoding


def ad_hoc_key(timeframe: Timeframe) -> str:
    """The partition key of an ad hoc extraction: `{start}_{end}` in ISO-8601's basic form, which every file system takes.

    >>> from datetime import datetime, timezone
    >>> day = Timeframe(datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))
    >>> ad_hoc_key(day)
    '20260101T000000Z_20260102T000000Z'
    """
    return "_".join(re.sub(r"[-:]", "", format_instant(moment)) for moment in (timeframe.start, timeframe.end))


def parse_ad_hoc_key(key: str) -> Timeframe:
    """The timeframe of `ad_hoc_key`. Raises InvalidInputError where `key` is none."""
    start, separator, end = key.partition("_")
    if not separator:
        raise InvalidInputError(f"{key!r} is not {{start}}_{{end}}", field="partition_key")
    return Timeframe(_instant(start, key), _instant(end, key))


def target_uri(root: str, collection: str, partition_key: str, encoding: Encoding = Encoding.CSV) -> str:
    """The URI of the file of one partition. Raises InvalidInputError for a name or key that could leave its folder."""
    check_collection_name(collection)
    if not _KEY.fullmatch(partition_key) or ".." in partition_key:
        raise InvalidInputError(f"partition key {partition_key!r} can't be a file name", field="partition_key")
    return f"{root.rstrip('/')}/{collection}/{partition_key}.{encoding.value}"


def list_uri(root: str, collection: str, property_name: str, partition_key: str) -> str:
    """The URI of the list of a property's unique values. Raises InvalidInputError as `target_uri` does.

    >>> list_uri("/data", "purchases", "body:user:id", "2026-01-01")
    '/data/_unique/purchases/2026-01-01.body%3Auser%3Aid.json'
    """
    place = target_uri(f"{root.rstrip('/')}/{UNIQUE}", collection, partition_key).removesuffix(f".{Encoding.CSV.value}")
    name = quote(property_name, safe="")
    room = min(_LONGEST_PROPERTY, _LONGEST_FILE_NAME - len(partition_key) - len("..json"))
    if len(name) > room:  # what is cut may be where two names differ
        digest = hashlib.sha256(property_name.encode()).hexdigest()[:16]
        name = f"{name[: room - len(digest) - 1]}-{digest}"
    return f"{place}.{name}.json"


def parse_target(root: str, uri: str) -> Place:
    """The reverse of `target_uri`. Raises InvalidInputError where `uri` is not a file of the layout under `root`."""
    root = root.rstrip("/")
    collection, separator, name = uri.removeprefix(root + "/").partition("/")
    encoding = next((one for one in _ENCODINGS if name.endswith("." + one.value)), None)
    if not uri.startswith(root + "/") or not separator or encoding is None:
        raise InvalidInputError(f"{uri} is not a file of the layout under {root}", field="uri")
    place = Place(root, collection, name.removesuffix("." + encoding.value), encoding)
    if target_uri(root, place.collection, place.partition_key, encoding) != uri:
        raise InvalidInputError(f"{uri} is not a file of the layout under {root}", field="uri")
    return place


def is_ours(root: str, uri: str) -> bool:
    """Whether a landing under `root` can have begun to write this file: a landed one, a slice, or one kept aside.

    >>> is_ours("s3://b", "s3://b/purchases/2026-01-01.csv"), is_ours("s3://b", "s3://b/backups/database.tar")
    (True, False)
    """
    root = root.rstrip("/")
    for folder in ("", f"/{SLICES}", f"/{QUARANTINE}", f"/{SLICES}/{QUARANTINE}"):
        try:
            parse_target(root + folder, uri)
        except InvalidInputError:
            continue
        return True
    return False


def quarantine_uri(root: str, target: str, extraction_id: str) -> str:
    """Where what was received for `target` is kept aside, one place for each extraction."""
    root = root.rstrip("/")
    if not target.startswith(root + "/"):
        raise InvalidInputError(f"{target} is not under {root}", field="target")
    identity = re.sub(r"[^A-Za-z0-9_-]", "-", extraction_id)[:80] or "unknown"
    folder, _, name = target.removeprefix(root + "/").rpartition("/")
    stem, dot, suffix = name.partition(".csv")
    return "/".join(part for part in (root, QUARANTINE, folder, f"{stem}.{identity}{dot}{suffix}") if part)


def _instant(text: str, key: str) -> datetime:
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{key!r} is not {{start}}_{{end}}", field="partition_key")
    try:
        moment = datetime.strptime(match[1], "%Y%m%dT%H%M%S")  # noqa: DTZ007 - the Z is checked by the pattern, set below
    except ValueError as error:
        raise InvalidInputError(f"{key!r}: {error}", field="partition_key") from None
    return moment.replace(microsecond=int((match[2] or "0").ljust(6, "0")), tzinfo=timezone.utc)
