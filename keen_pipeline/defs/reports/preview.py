"""The first events of a landed file as a Markdown table, bounded in every direction."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from keen_pipeline.collection import Encoding
from keen_pipeline.extraction import Landing
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.grammar import RecordReader, is_null, value_of
from keen_pipeline.landing.csv.stored import decompressed
from keen_pipeline.landing.layout import encoding_of

ROWS = 5
COLUMNS = 12
CELL_CHARACTERS = 40
# Of the file, decompressed; events longer than that have no preview.
HEAD_BYTES = 256 * 1024
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def preview(files: FileDestination, landing: Landing) -> str | None:
    """What `landing` begins with, as it was written (masked columns are); None if there is nothing or it can't be read now."""
    if not landing.records:
        return None
    try:
        encoding = encoding_of(landing.uri)
        with files.open(landing.uri) as file:
            read = _parquet_rows if encoding is Encoding.PARQUET else _csv_rows
            rows = [[_cell(value) for value in row[:COLUMNS]] for row in islice(read(file, encoding), ROWS)]
    except Exception:  # noqa: BLE001 - of a file that somebody has damaged since; the landing is proven and reported without it
        return None
    names = [_cell(name) for name in landing.columns[:COLUMNS]]
    lines = [names, ["---"] * len(names), *rows]
    more = [f"{len(landing.columns) - COLUMNS} more columns"] if len(landing.columns) > COLUMNS else []
    more += [f"{landing.records - len(rows)} more events"] if landing.records > len(rows) else []
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + (f"\n\n{', '.join(more)}" if more else "")


def _csv_rows(file: BinaryIO, encoding: Encoding) -> Iterator[list[str]]:
    with decompressed(file, f".{encoding.value}") as source:
        head = source.read(HEAD_BYTES)
    reader = RecordReader()
    reader.add(head)
    if len(head) < HEAD_BYTES:
        reader.end()  # else the last record may go on
    reader.next()
    for cells, _ in reader:
        yield ["" if is_null(cell) else value_of(cell).decode("utf-8", "replace") for cell in cells]


def _parquet_rows(file: BinaryIO, encoding: Encoding) -> Iterator[list[str]]:
    from pyarrow import parquet

    source = parquet.ParquetFile(file)
    for batch in source.iter_batches(batch_size=ROWS, columns=source.schema_arrow.names[:COLUMNS]):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield ["" if value is None else str(value) for value in row]


def _cell(text: str) -> str:
    """One cell: short, on one line, and nothing in it means anything to Markdown."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: CELL_CHARACTERS * 4]).split())
    shown = line if len(line) <= CELL_CHARACTERS else line[: CELL_CHARACTERS - 1] + "…"
    return _PUNCTUATION.sub(r"\\\1", shown) or " "
