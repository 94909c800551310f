"""Reads events from files: NDJSON, CSV and Parquet, each also compressed (`.gz`, `.zst`), in batches, with the line in every error.

- `.ndjson`, `.jsonl`, `-` (standard input): one JSON object a line, the event as v3.0 takes it. Empty lines are passed over.
- `.csv`: by the grammar of landed files, so separated by commas. The first record holds property names: of v2.0 if all start
  with `header:` or `body:`, else v3.0. Fields are read as `cells` describes: what was extracted by this service comes back with
  its types. In other CSV files a field without quotes is a number, true, false or null if it reads as one, else a string; a field
  in quotes is a string; an empty one without quotes isn't a property at all. Records of empty fields alone are events without
  properties, which the service refuses; empty lines are passed over.
- `.parquet`: one event a row. What was landed comes back as it was extracted: lists and objects as such, whole numbers as whole,
  numbers that no double holds by their digits. (A property with numbers in some events and texts in others is text in Parquet.) In
  other files columns are properties under the same names as in CSV; structs nest, NULL isn't a property, times become ISO-8601
  texts (UTC), decimals become numbers (texts where no double holds their digits), binary values become hexadecimal texts.

Lines end by LF, CR LF or a lone CR.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from uuid import UUID

from keen_pipeline.errors import InvalidInputError, VerificationError
from keen_pipeline.landing.csv.grammar import RecordReader, value_of
from keen_pipeline.landing.csv.stored import decompressed
from keen_pipeline.service.events.cells import MISSING, decode_field
from keen_pipeline.service.events.properties import path_of_name, unflatten
from keen_pipeline.timeframe import UTC, format_instant

BATCH_BYTES = 5_000_000
BATCH_EVENTS = 50_000  # the embedded service takes 100,000
MAX_LINE_BYTES = 64 * 1024 * 1024
STANDARD_INPUT = "-"
KINDS = (".ndjson", ".jsonl", ".csv", ".parquet")
_PIECE = 256 * 1024
_FETCH = 1000
_WHOLE_IN_DOUBLES = 2**53
_LINE_END = re.compile(rb"\r\n?|\n")
_SEPARATORS = {b";": "semicolons", b"\t": "tabs", b"|": "vertical bars"}
_SEPARATED = re.compile(rb'(?:"(?:[^"]|"")*"|[^",;\t|\r\n]+)([;\t|])')


class NoEventsError(InvalidInputError):
    """There are bytes in the file, and no event."""


def read_event_batches(source: str | Path, batch_bytes: int = BATCH_BYTES) -> Iterator[list[dict[str, Any]]]:
    """Lists of at most BATCH_EVENTS events whose JSON (ASCII) has at most `batch_bytes` bytes (a single larger event stands alone).

    Raises InvalidInputError naming the file and the line (of Parquet: the row) of what can't be read, after all events before it
    were given out; NoEventsError for a file that is not empty and holds none.
    """
    batch: list[dict[str, Any]] = []
    size = 0
    try:
        for place, event in _events(source):
            weight = len(_json(event, place)) + 1
            if batch and (size + weight > batch_bytes or len(batch) == BATCH_EVENTS):
                yield batch
                batch, size = [], 0
            batch.append(event)
            size += weight
    except InvalidInputError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _json(event: dict[str, Any], place: str) -> str:
    try:
        return json.dumps(event, allow_nan=False)
    except ValueError:
        _refuse(f"{place} has a number that JSON doesn't have (NaN or infinite)")
    except RecursionError:
        _refuse(f"{place} has objects within each other, too many to be written as JSON")


def _refuse(problem: str) -> NoReturn:
    raise InvalidInputError(problem, field="file") from None


def _events(source: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each event and where it stands, in words."""
    name = str(source)
    bare = name.lower().removesuffix(".gz").removesuffix(".zst")
    kind = ".ndjson" if name == STANDARD_INPUT else Path(bare).suffix
    if kind not in KINDS:
        _refuse(f"{name}: events are read from {', '.join(KINDS)}, each also .gz and .zst, and from - (NDJSON)")
    if kind == ".parquet":
        yield from _read_parquet(name)
        return
    with _open(name) as file:
        pieces = iter(lambda: _read(file, name), b"")
        first = next(pieces, b"")
        found = False
        for event in (_read_csv if kind == ".csv" else _read_ndjson)(chain([first] if first else [], pieces), name):
            found = True
            yield event
    if first and not found:
        raise NoEventsError(f"{name}: holds no events, though it is not empty", field="file")


@contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    if name == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - only the opening may fail as a wrong name
    except OSError as error:
        _refuse(f"{name}: can't be read ({error.strerror})")
    with file, decompressed(file, name.lower()) as source:
        yield source


def _read(file: BinaryIO, name: str) -> bytes:
    try:
        return file.read(_PIECE)
    except (OSError, EOFError) as error:
        _refuse(f"{name}: can't be read any further ({error})")


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        _refuse(f"{place} is not UTF-8")


def _lines(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).splitlines(keepends=True)
        yield from lines
        if len(held) > MAX_LINE_BYTES:
            _refuse(f"{name}: a line is longer than {MAX_LINE_BYTES} bytes")
    yield held


def _read_ndjson(pieces: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(pieces, name), 1):
        place = f"{name}: line {number}"
        text = _text(line, place).removeprefix("\ufeff" if number == 1 else "").strip()
        if not text:
            continue
        try:
            event = json.loads(text)
        except (ValueError, RecursionError) as error:
            _refuse(f"{place} is not JSON ({str(error)[:100]})")
        if not isinstance(event, dict):
            _refuse(f"{place} is not a JSON object")
        yield place, event


def _read_csv(pieces: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    paths: list[str] = []
    for number, cells in _records(pieces, name):
        place = f"{name}: line {number}"
        if not paths:
            if len(cells) == 1:
                _check_separator(cells[0], name)
            paths = _paths([_text(value_of(cell), place) for cell in cells], name)
            continue
        if not cells:
            continue
        if len(cells) != len(paths):
            _refuse(f"{place} has {len(cells)} fields, the header {len(paths)}")
        leaves = [
            (path, decode_field(_text(value_of(cell), place), quoted=cell.startswith(b'"')))
            for path, cell in zip(paths, cells, strict=True)
        ]
        yield place, _nested([leaf for leaf in leaves if leaf[1] is not MISSING], place)


def _records(pieces: Iterable[bytes], name: str) -> Iterator[tuple[int, list[bytes]]]:
    """The line on which each record begins, and its cells."""
    reader, line = RecordReader(), 1
    try:
        for cells, _ in reader.read(pieces):
            yield line, cells
            line += 1 + sum(len(_LINE_END.findall(cell)) for cell in cells if cell.startswith(b'"'))
    except VerificationError as error:
        if not reader.number:
            _check_separator(reader.rest(), name)
        _refuse(f"{name}: line {line}: {error}")


def _check_separator(header: bytes, name: str) -> None:
    """Refuses a header whose first name, in quotes or not, ends with another sign than a comma."""
    found = _SEPARATED.match(header)
    if found is not None:
        shown = header.splitlines()[0][:40].decode(errors="replace")
        _refuse(
            f"{name}: its header is one column, {shown!r}, whose parts are separated by {_SEPARATORS[found[1]]} and not by commas; "
            "convert the file first, or put the name in quotes if it is one"
        )


def _paths(names: Sequence[str], source: str) -> list[str]:
    second = all(name.startswith(("header:", "body:")) for name in names)
    paths = [path_of_name(name) if second else name for name in names]
    if not all(names) or len(set(paths)) < len(paths):
        _refuse(f"{source}: the header has an empty or a repeated name")
    return paths


def _nested(leaves: Iterable[tuple[str, Any]], place: str) -> dict[str, Any]:
    try:
        return unflatten(leaves)
    except (TypeError, AttributeError):
        _refuse(f"{place} has a property that is a value and an object at once")


def _read_parquet(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import duckdb  # half a second that the other formats save

    with _open(name) as file, tempfile.TemporaryDirectory() as folder:
        # Under a plain name: DuckDB takes a star for other files too, and a folder such as `date=2026-01-01` for a column.
        plain = Path(folder) / "events.parquet"
        if name.lower().endswith(".parquet"):
            plain.symlink_to(Path(name).absolute())
        else:
            with plain.open("wb") as unpacked:
                unpacked.writelines(iter(lambda: _read(file, name), b""))
        path, number = str(plain), 0
        with duckdb.connect(":memory:") as connection:
            try:
                for number, leaves in enumerate(_rows(connection, path, name), 1):
                    place = f"{name}: row {number}"
                    yield place, _nested(leaves, place)
            except duckdb.Error as error:
                _refuse(f"{name}: not readable as Parquet ({str(error).splitlines()[0].replace(path, name)})")
        if not number:
            raise NoEventsError(f"{name}: holds no events", field="file")


def _rows(connection: Any, path: str, name: str) -> Iterator[list[tuple[str, Any]]]:
    """The properties of each row, by path."""
    pairs = connection.execute("SELECT key, value FROM parquet_kv_metadata(?)", [path]).fetchall()
    metadata = {bytes(key).decode(): bytes(value).decode() for key, value in pairs}
    names = _top_level(connection.execute("SELECT name, num_children FROM parquet_schema(?)", [path]).fetchall())
    header = json.loads(metadata.get("keen_pipeline.columns", "[]"))
    names[: len(header)] = header  # a second column of one name has another one in the file
    paths = _paths(names, name)
    digits = set(json.loads(metadata.get("keen_pipeline.text_columns", "[]")))
    # DuckDB itself renames columns that differ in case only.
    described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [path]).fetchall()
    utc = [f"timezone('UTC', c{n})" if row[1] == "TIMESTAMP WITH TIME ZONE" else f"c{n}" for n, row in enumerate(described)]
    aliases = ", ".join(f"c{number}" for number in range(len(described)))
    connection.execute(f"SELECT {', '.join(utc)} FROM read_parquet(?) AS rows({aliases})", [path])  # noqa: S608 - of our own words
    while rows := connection.fetchmany(_FETCH):
        for row in rows:
            cells = zip(names, paths, row, strict=True)
            if header:
                yield [(path, _landed(value, name in digits)) for name, path, value in cells if value is not None]
            else:
                yield [(path, _plain(value)) for _, path, value in cells if value is not None]


def _top_level(schema: Sequence[tuple[str, int | None]]) -> list[str]:
    """The names of a Parquet file's own columns, of all nodes of its schema in their order."""
    names, at = [], 1
    while at < len(schema):
        names.append(schema[at][0])
        open_nodes = 1
        while open_nodes:
            open_nodes += (schema[at][1] or 0) - 1
            at += 1
    return names


def _landed(value: Any, is_digits: bool) -> Any:
    """A value as it was before it was extracted and landed. `is_digits`: its column is text for want of a wide enough type."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")  # what isn't UTF-8 is refused with its event by the service
    if isinstance(value, str):
        # Without its quotes a list or an object is the JSON it reads as.
        quoted = value in ("", "null") or not (is_digits or value[0] in "[{")
        return decode_field(value, quoted=quoted)
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds" if value.microsecond % 1000 else "milliseconds") + "Z"
    if isinstance(value, float) and value.is_integer() and abs(value) <= _WHOLE_IN_DOUBLES:
        return value if value == 0 and math.copysign(1, value) < 0 else int(value)  # -0.0 has no whole number
    return value


def _plain(value: Any) -> Any:
    """A value of DuckDB as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return format_instant(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if value == Decimal(repr(number)) else str(value)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return str(value) if isinstance(value, UUID) else value
