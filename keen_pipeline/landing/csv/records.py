"""One record of a CSV, cell by cell as it is written, by the rules of `verify`."""

from __future__ import annotations

import re

# One raw cell and what ends it; the end of the data may be in the middle of either.
_CELL = re.compile(rb'("[^"]*(?:""[^"]*)*"|[^",\r\n][^,\r\n]*|)(,|\r\n|\n|\r|\Z)')


def raw_record(data: bytes, at: int, *, last: bool) -> tuple[list[bytes], bytes, int] | None:
    """The raw cells of the record at `at`, its line end, and where the next one begins; None where it is not whole (yet)."""
    raw: list[bytes] = []
    while True:
        cell = _CELL.match(data, at)
        if cell is None:
            return None
        raw.append(cell[1])
        at = cell.end()
        if cell[2] == b",":
            continue
        # Behind the end of this piece a quote may go on, or a LF belong to its CR.
        if at == len(data) and cell[2] != b"\n" and cell[2] != b"\r\n" and not last:
            return None
        return raw, cell[2], at
