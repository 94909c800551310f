"""Reads events from files: NDJSON, CSV and Parquet, in batches, with the file and the line in every error.

- `.ndjson`, `.jsonl`, `-` (standard input): one JSON object a line, the event as v3.0 takes it. Empty lines are passed over.
- `.csv`: the first record holds property names: of v2.0 where all start with `header:` or `body:`, else of v3.0. Fields are
  read as `cells` describes: what was extracted by this service comes back with its types, save that a string that reads as a list
  or an object, and has a comma or a quote in it, is taken for one. In other CSV files a field without quotes is a number, true,
  false or null where it reads as one, else a string; a field in quotes is a string; an empty one without quotes is no property
  at all.
- `.parquet`: one event a row. Columns are properties under the same names as in CSV; structs nest, NULL is no property,
  times become ISO-8601 texts (UTC), decimals become numbers, binary values become hexadecimal texts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.events.cells import MISSING, decode_field
from keen_pipeline.service.events.properties import path_of_name, unflatten
from keen_pipeline.timeframe import UTC, format_instant

BATCH_BYTES = 5_000_000
MAX_RECORD_BYTES = 64 * 1024 * 1024
STANDARD_INPUT = "-"

_FIELD = re.compile(r'("[^"]*(?:""[^"]*)*"|[^,"]*)(,|\Z)')
_FETCH = 1000


def read_event_batches(source: str | Path, batch_bytes: int = BATCH_BYTES) -> Iterator[list[dict[str, Any]]]:
    """Lists of events whose JSON (ASCII) together has at most `batch_bytes` bytes (a single larger event stands alone).

    Raises InvalidInputError naming the file and the line of what can't be read.
    """
    batch: list[dict[str, Any]] = []
    size = 0
    for event in _reader(source)(source):
        weight = len(json.dumps(event)) + 1
        if batch and size + weight > batch_bytes:
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += weight
    if batch:
        yield batch


def _reader(source: str | Path) -> Callable[[str | Path], Iterator[dict[str, Any]]]:
    suffix = ".ndjson" if str(source) == STANDARD_INPUT else Path(source).suffix.lower()
    readers = {".ndjson": _read_ndjson, ".jsonl": _read_ndjson, ".csv": _read_csv, ".parquet": _read_parquet}
    if suffix not in readers:
        raise InvalidInputError(f"{source}: events are read from {', '.join(sorted(readers))} and - (NDJSON)", field="file")
    return readers[suffix]


@contextmanager
def _open(source: str | Path) -> Iterator[BinaryIO]:
    if str(source) == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - only the opening may fail as a wrong name
    except OSError as error:
        raise InvalidInputError(f"{source}: can't be read ({error.strerror})", field="file") from None
    with file:
        yield file


def _text(line: bytes, source: str | Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError(f"{source}: line {number} is not UTF-8", field="file") from None


def _lines(file: BinaryIO, source: str | Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) > MAX_RECORD_BYTES:
            raise InvalidInputError(f"{source}: line {number} is longer than {MAX_RECORD_BYTES} bytes", field="file")
        yield number, line


def _read_ndjson(source: str | Path) -> Iterator[dict[str, Any]]:
    with _open(source) as file:
        for number, line in _lines(file, source):
            text = _text(line, source, number).strip()
            if not text:
                continue
            try:
                event = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InvalidInputError(f"{source}: line {number} is not JSON ({str(error)[:100]})", field="file") from None
            if not isinstance(event, dict):
                raise InvalidInputError(f"{source}: line {number} is not a JSON object", field="file")
            yield event


def _read_csv(source: str | Path) -> Iterator[dict[str, Any]]:
    with _open(source) as file:
        records = _records(file, source)
        first = next(records, None)
        if first is None:
            return
        paths = _paths([_unquote(field) for field in _fields(first[1], source, first[0])], source)
        for number, record in records:
            if not record and len(paths) > 1:
                continue
            fields = _fields(record, source, number)
            if len(fields) != len(paths):
                raise InvalidInputError(f"{source}: line {number} has {len(fields)} fields, the header {len(paths)}", field="file")
            leaves = [(path, _value(field)) for path, field in zip(paths, fields, strict=True)]
            yield _nested([leaf for leaf in leaves if leaf[1] is not MISSING], source, number)


def _records(file: BinaryIO, source: str | Path) -> Iterator[tuple[int, str]]:
    """(line of its start, text without its end of line) of each record; a quoted field may hold line breaks."""
    parts: list[bytes] = []
    start, size, quotes = 1, 0, 0
    for number, line in _lines(file, source):
        start = number if not parts else start
        parts.append(line)
        size += len(line)
        quotes += line.count(b'"')
        if size > MAX_RECORD_BYTES:
            raise InvalidInputError(f"{source}: the record at line {start} is longer than {MAX_RECORD_BYTES} bytes", field="file")
        if quotes % 2 == 0:
            record = b"".join(parts)
            # Only the end of the record goes: a field may end in a line break inside of its quotes, never outside.
            record = record[:-2] if record.endswith(b"\r\n") else record[:-1] if record.endswith(b"\n") else record
            yield start, _text(record, source, start)
            parts, size, quotes = [], 0, 0
    if parts:
        raise InvalidInputError(f"{source}: the quote opened in the record at line {start} is never closed", field="file")


def _fields(record: str, source: str | Path, number: int) -> list[str]:
    fields: list[str] = []
    position = 0
    while True:
        match = _FIELD.match(record, position)
        if match is None:
            raise InvalidInputError(f"{source}: line {number} has a stray quote in field {len(fields) + 1}", field="file")
        fields.append(match[1])
        position = match.end()
        if not match[2]:
            return fields


def _unquote(field: str) -> str:
    return field[1:-1].replace('""', '"') if field.startswith('"') else field


def _value(field: str) -> Any:
    return decode_field(_unquote(field), quoted=field.startswith('"'))


def _paths(names: Sequence[str], source: str | Path) -> list[str]:
    second = all(name.startswith(("header:", "body:")) for name in names)
    paths = [path_of_name(name) if second else name for name in names]
    if not all(names) or len(set(paths)) < len(paths):
        raise InvalidInputError(f"{source}: the header has an empty or a repeated name", field="file")
    return paths


def _nested(leaves: Iterable[tuple[str, Any]], source: str | Path, number: int) -> dict[str, Any]:
    try:
        return unflatten(leaves)
    except (TypeError, AttributeError):
        raise InvalidInputError(
            f"{source}: line {number} has a property that is a value and an object at once", field="file"
        ) from None


def _read_parquet(source: str | Path) -> Iterator[dict[str, Any]]:
    import duckdb  # half a second that the other formats save

    with _open(source):
        pass
    with duckdb.connect(":memory:") as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SELECT * FROM read_parquet(?)", [str(source)])
            paths = _paths([column[0] for column in connection.description or []], source)
            number = 0
            while rows := connection.fetchmany(_FETCH):
                for row in rows:
                    number += 1
                    leaves = [(path, _plain(value)) for path, value in zip(paths, row, strict=True) if value is not None]
                    yield _nested(leaves, source, number)
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise InvalidInputError(f"{source}: not readable as Parquet ({reason})", field="file") from None


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
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return str(value) if isinstance(value, UUID) else value
