"""Manifests: files that prove themselves without a ledger.

Beside each landed file `PATH` lies `_manifests/PATH.json`, written once the file is in its place, so that its arrival is the signal
for consumers outside of Dagster. It is replaced, and removed, with its file. Slices have none. One JSON object:

| field | meaning |
|---|---|
| `schema`, `version` | `keen_pipeline.manifest`, 1; fields may be added, the number changes with the meaning of one |
| `source`, `name` | whose it is: service and project, definitions |
| `collection`, `partition`, `kind` | `kind`: `partition` or `ad_hoc` |
| `timeframe` | `start` and `end` (exclusive), UTC |
| `filters` | as on the wire |
| `mask`, `mask_key` | method by column; a digest of the key of its hashes, or null |
| `masked` | by column of the mask what was done: `hash`, `mask`, `drop`, or `absent` if the file has no such column |
| `count_check` | what a wrong count means: `fail`, `warn`, `off` |
| `extraction_id`, `attempt`, `token` | of the service; which try it was; what names it in Dagster's events (`keen/landing`) |
| `path`, `uri` | of the file, below the destination's root and as a whole |
| `encoding` | `csv`, `csv.gz`, `csv.zst`, `parquet` |
| `bytes`, `sha256`, `events` | of Keen's CSV as it came; header not counted |
| `stored_bytes`, `stored_sha256` | of the file as it lies there |
| `expected`, `counted` | events that the service counted before the request and after the landing; null if it did not |
| `columns` | in order: `name`, `type` (Arrow's, of a parquet file, else null), `property_type` (Keen's, or null) |
| `requested_at`, `landed_at`, `counted_at`, `seconds` | instants in UTC; how long the landing took |
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from keen_pipeline.collection import CountPolicy, Encoding, MaskMethod, check_collection_name
from keen_pipeline.errors import ConfigurationError, InvalidInputError, KeenPipelineError, RetryableError
from keen_pipeline.extraction import ExtractionRequest, Kind, Landing, Status
from keen_pipeline.filters import Filter
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.layout import MANIFESTS, collection_folder, manifest_path
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline.told import shortened
from keen_pipeline.scope import Scope
from keen_pipeline.timeframe import Timeframe, format_instant, parse_instant

if TYPE_CHECKING:
    # The ledger brings SQLAlchemy, which a code location needs once it opens one.
    from keen_pipeline.ledger import SqlLedger

SCHEMA = "keen_pipeline.manifest"
VERSION = 1
MOST_BYTES = 16 << 20
"""Of one manifest: 100,000 columns. A longer file is none of ours."""
READERS = 8
"""Manifests that are read or written at once."""
MOST_NUMBER = 2**63 - 1
"""Of bytes and events: what a database holds."""
_BATCH = 1_000
_MOST_SAMPLED = 64
_T = TypeVar("_T")


@dataclass(frozen=True)
class Manifest:
    """What one manifest says. `source` and `name` are those of its scope.

    `entry`: the landing as the ledger has it, but for its `entry_id` and fingerprint, which no manifest tells.
    """

    source: str
    name: str
    entry: Entry

    @classmethod
    def of(cls, entry: Entry, scope: Scope, landed_at: datetime) -> Manifest:
        """The manifest of an entry that has a landing."""
        return cls(scope.source, scope.name, replace(entry, landed_at=landed_at))

    @property
    def landing(self) -> Landing:
        """The proof of the file."""
        assert self.entry.landing is not None
        return self.entry.landing

    def is_of(self, scope: Scope) -> bool:
        """Whether it tells of a file of this project and these definitions."""
        return (self.source, self.name) == (scope.source, scope.name)

    def __str__(self) -> str:
        return f"{self.entry.request.path} ({self.name}: {self.source})"

    def to_json(self) -> bytes:
        """The file."""
        entry, request, landing = self.entry, self.entry.request, self.landing
        assert entry.landed_at is not None
        types = landing.column_types or (None,) * len(landing.columns)
        properties = landing.property_types or (None,) * len(landing.columns)
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "source": self.source,
            "name": self.name,
            "collection": request.collection,
            "partition": request.partition_key,
            "kind": request.kind.value,
            "timeframe": request.timeframe.to_wire(),
            "filters": [one.to_wire() for one in request.filters],
            "mask": {name: method.value for name, method in request.mask.items()},
            "mask_key": request.mask_key,
            "masked": dict(landing.masked),
            "count_check": request.count_check.value,
            "extraction_id": entry.extraction_id,
            "attempt": entry.attempt,
            "token": entry.token,
            "path": request.path,
            "uri": landing.uri,
            "encoding": request.encoding.value,
            "bytes": landing.bytes,
            "sha256": landing.sha256,
            "events": landing.records,
            "stored_bytes": landing.stored_bytes,
            "stored_sha256": landing.stored_sha256,
            "expected": entry.expected,
            "counted": entry.counted,
            "columns": [
                {"name": name, "type": kind, "property_type": inferred or None}
                for name, kind, inferred in zip(landing.columns, types, properties, strict=True)
            ],
            "requested_at": format_instant(entry.requested_at),
            "landed_at": format_instant(entry.landed_at),
            "counted_at": format_instant(entry.counted_at) if entry.counted_at is not None else None,
            "seconds": round(landing.seconds, 3),
        }
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(data: bytes) -> Manifest:
    """The manifest in a file. Raises InvalidInputError if it is none, or one of a version that this release can't read."""
    try:
        return _read(json.loads(data))
    except InvalidInputError as error:
        raise InvalidInputError(shortened(str(error))) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"it is not readable ({type(error).__name__}: {shortened(str(error))})") from None


def _read(d: Any) -> Manifest:
    if not isinstance(d, dict) or d.get("schema") != SCHEMA:
        raise InvalidInputError("it isn't a manifest of keen_pipeline")
    if d["version"] != VERSION:
        raise InvalidInputError(f"its version is {d['version']!r:.20}, this release reads {VERSION}")
    request = ExtractionRequest(
        collection=check_collection_name(d["collection"]),
        timeframe=Timeframe(parse_instant(d["timeframe"]["start"]), parse_instant(d["timeframe"]["end"])),
        partition_key=_text(d["partition"], 128),
        path=_text(d["path"], 2048),
        kind=Kind(d["kind"]),
        filters=tuple(Filter.from_wire(one) for one in d["filters"]),
        encoding=Encoding(d["encoding"]),
        mask={_name(name): MaskMethod(method) for name, method in d["mask"].items()},
        mask_key=_or_none(_text, d["mask_key"], 32),
        count_check=CountPolicy(d["count_check"]),
    )
    if request.kind is Kind.SLICE or not request.path.startswith(f"{collection_folder(request.collection)}/"):
        raise InvalidInputError(f"it doesn't belong to a file of {request.collection}")
    entry = Entry(
        entry_id=0,
        token=_text(d["token"], 32),
        request=request,
        fingerprint="",
        attempt=_whole(d["attempt"], 2**31 - 1),
        status=Status.LANDED,
        requested_at=parse_instant(d["requested_at"]),
        due_at=parse_instant(d["requested_at"]),
        landed_at=parse_instant(d["landed_at"]),
        extraction_id=_or_none(_text, d["extraction_id"], 256),
        landing=_read_landing(d),
        expected=_or_none(_whole, d["expected"], MOST_NUMBER),
        counted=_or_none(_whole, d["counted"], MOST_NUMBER),
        counted_at=parse_instant(d["counted_at"]) if d["counted_at"] is not None else None,
    )
    return Manifest(str(d["source"]), str(d["name"]), entry)


def _read_landing(d: Mapping[str, Any]) -> Landing:
    columns, seconds = d["columns"], float(d["seconds"])
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{seconds} isn't a duration")
    return Landing(
        uri=str(d["uri"]),
        bytes=_whole(d["bytes"], MOST_NUMBER),
        records=_whole(d["events"], MOST_NUMBER),
        sha256=_text(d["sha256"], 64),
        columns=tuple(_name(one["name"]) for one in columns),
        stored_bytes=_whole(d["stored_bytes"], MOST_NUMBER),
        seconds=seconds,
        column_types=tuple(_name(one["type"]) for one in columns) if any(one["type"] for one in columns) else (),
        property_types=tuple(_name(one["property_type"] or "") for one in columns)
        if any(one["property_type"] for one in columns)
        else (),
        masked={_name(name): _name(what) for name, what in d["masked"].items()},
        stored_sha256=_or_none(_text, d["stored_sha256"], 64),
    )


def _text(value: Any, most: int) -> str:
    """A text that every database takes."""
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise ValueError(f"{str(value)[:20]!r} isn't text of 1 to {most} characters")
    return value


def _name(value: Any) -> str:
    """A text that is kept as JSON, whatever is in it."""
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:20]!r} is no text")
    value.encode()
    return sys.intern(value)  # a history of years has the same names in each of its manifests


def _whole(value: Any, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:20]!r} isn't a number from 0 to {most}")
    return value


def _or_none(read: Callable[[Any, int], _T], value: Any, most: int) -> _T | None:
    return None if value is None else read(value, most)


def write(destination: FileDestination, manifest: Manifest) -> None:
    """Put it in its place. Raises ConfigurationError or RetryableError."""
    destination.write(manifest_path(manifest.entry.request.path), manifest.to_json())


def find(destination: FileDestination, path: str) -> Manifest | None:
    """The manifest of the file at a path below the root, None if there is none. Raises InvalidInputError for an unreadable one."""
    try:
        return read_manifest(destination.read(manifest_path(path), MOST_BYTES))
    except FileNotFoundError:
        return None


def some_of(destination: FileDestination, paths: Sequence[str]) -> list[Manifest]:
    """The readable manifests of files at these paths below the root, of _MOST_SAMPLED at most, evenly spread."""

    def look(path: str) -> Manifest | None:
        # A storage that is away, or a manifest that is damaged, is told by whoever lands there.
        with suppress(InvalidInputError, ConfigurationError, RetryableError):
            return find(destination, path)
        return None

    with ThreadPoolExecutor(READERS, thread_name_prefix="keen-manifest") as pool:
        return [found for found in pool.map(look, paths[:: 1 + len(paths) // _MOST_SAMPLED]) if found is not None]


def of_other_ledgers(ledger: SqlLedger, found: Sequence[Manifest]) -> list[Manifest]:
    """Those that this ledger has not landed."""
    known = ledger.tokens_at(manifest.entry.request.path for manifest in found)
    return [manifest for manifest in found if manifest.entry.token not in known]


def remove(destination: FileDestination, path: str) -> None:
    """Remove the manifest of a file; before the file, as its being there says that the file is."""
    destination.remove(destination.uri_of(manifest_path(path)))


def note_counts(
    destination: FileDestination, scope: Scope, counts: Sequence[tuple[Entry, int]], now: datetime
) -> tuple[dict[int, KeenPipelineError], list[Entry]]:
    """Write what the service counts into the manifests of landed entries, several at once; a lost manifest is recreated.

    Answers by id why some could not be written, and the entries whose manifests were. Who landed one of these again at the same
    moment may have its own manifest replaced: the caller looks whether somebody did.
    """

    def note(counted: tuple[Entry, int]) -> KeenPipelineError | bool:
        entry, count = counted
        known = None
        try:
            with suppress(InvalidInputError):
                known = find(destination, entry.request.path)
            if known is not None and known.entry.token != entry.token:
                return False  # another landing has replaced the file meanwhile
            made = known or Manifest.of(entry, scope, entry.landed_at or now)
            write(destination, replace(made, entry=replace(made.entry, counted=count, counted_at=now)))
        except (ConfigurationError, RetryableError) as error:
            return error
        return True

    if not counts:
        return {}, []
    with ThreadPoolExecutor(min(READERS, len(counts)), thread_name_prefix="keen-manifest") as pool:
        answers = list(zip((entry for entry, _ in counts), pool.map(note, counts), strict=True))
    problems = {entry.entry_id: answer for entry, answer in answers if isinstance(answer, KeenPipelineError)}
    return problems, [entry for entry, answer in answers if answer is True]


@dataclass(frozen=True)
class Found:
    """A file below `_manifests/`: what it says, or why it says nothing."""

    uri: str
    manifest: Manifest | None
    problem: str | None = None


def all_of(destination: FileDestination, collection: str | None = None, *, most: int | None = None) -> Iterator[Found]:
    """The manifests at a destination, of one collection or of all, at most `most` of them. Several are read at once.

    Raises ConfigurationError or RetryableError if the destination can't be listed.
    """
    folder = MANIFESTS if collection is None else f"{MANIFESTS}/{collection_folder(collection)}"

    def look(path: str) -> Found:
        uri = destination.uri_of(path)
        try:
            return Found(uri, read_manifest(destination.read(path, MOST_BYTES)))
        except FileNotFoundError:
            return Found(uri, None, "it has just been removed")
        except (InvalidInputError, ConfigurationError, RetryableError) as error:
            return Found(uri, None, str(error))

    with ThreadPoolExecutor(READERS, thread_name_prefix="keen-manifest") as pool:
        batch: list[str] = []
        for path, _ in destination.files(folder):
            if most is not None and len(batch) >= most:
                break
            batch.append(path)
            if most is None and len(batch) >= _BATCH:
                yield from pool.map(look, batch)
                batch = []
        yield from pool.map(look, batch)
