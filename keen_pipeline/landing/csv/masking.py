"""Personal data out of a CSV before anything of it is written: columns hashed, masked or dropped, all other cells as they are.

`hash`: HMAC-SHA256 of the cell's value under the configured key, its first 32 hexadecimal digits, so that equal values stay equal
over files and collections and join, while nobody without the key can try values. `mask`: `***`. `drop`: the column is gone.
An empty cell, which stands for "no such property", stays empty in the first two. Quoting is not part of a value.

The rules of the CSV are those of `verify`. What can't be told to belong to a column (a web page, a record with another number of
columns, a quote that never ends) is not given out, nor anything behind it; the verifier says what is wrong with it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from keen_pipeline.collection import MaskMethod
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing.csv.records import raw_record
from keen_pipeline.landing.csv.verify import BOM, LONGEST_HEADER_BYTES, MARKUP, parse_header

HASH_DIGITS = 32
"""Hexadecimal: 128 bits, so that two values of one hash don't happen."""
MASKED = b"***"
LONGEST_RECORD_BYTES = 16 * 1024 * 1024
"""Held at once. Keen takes events of 900 kB at most."""
_SNIFFED_BYTES = 1024


class Masker:
    """Takes one file's CSV in pieces (`feed`), then `finish`; both answer the next bytes to write. Memory: one record and a piece.

    `methods`: what to do by column; `key`: for `hash`, required where it is used. Not shared between threads.
    After the header, `columns` are those of the written file, `masked` says what was done to which column of the file, and `absent`
    names those of `methods` that the file doesn't have.
    """

    def __init__(self, methods: Mapping[str, MaskMethod], key: bytes | None = None) -> None:
        if MaskMethod.HASH in methods.values() and not key:
            raise ConfigurationError("a column is to be hashed, and there is no key: set KEEN_PIPELINE_MASK_KEY")
        self._methods = methods
        self._key = key or b""
        self._held = b""
        self._width = 0  # columns of the file as it comes; 0 until the header is read
        self._changes: list[tuple[int, MaskMethod]] = []
        self._dropped: list[int] = []
        self._stopped = False
        self.columns: tuple[str, ...] = ()
        self.masked: dict[str, str] = {}
        self.absent: tuple[str, ...] = tuple(sorted(methods))

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """The file's next bytes, possibly none yet. Raises ConfigurationError where the mask leaves no column."""
        return self._next(self._held + bytes(data), last=False)

    def finish(self) -> bytes:
        """The file's last bytes. What is left of a record that never ended is dropped."""
        return self._next(self._held, last=True)

    @property
    def stopped(self) -> bool:
        """Whether something came that belongs to no column; it was kept back, and so is what follows."""
        return self._stopped

    def _next(self, data: bytes, *, last: bool) -> bytes:
        self._held = b""
        if self._stopped or (not self._width and len(data) < _SNIFFED_BYTES and not last):
            self._held = b"" if self._stopped else data
            return b""
        out: list[bytes] = []
        at = 0
        if not self._width:
            at = self._header(data, out, last=last)
        if self._width:
            at = self._records(data, at, out, last=last)
        if not self._stopped:
            self._held = data[at:]
            longest = LONGEST_RECORD_BYTES if self._width else LONGEST_HEADER_BYTES
            self._stopped = len(self._held) > longest or (last and bool(self._held))
        if self._stopped:
            self._held = b""
        return b"".join(out)

    def _header(self, data: bytes, out: list[bytes], *, last: bool) -> int:
        """Read the header, where it is all there; answers where the records begin."""
        start = len(BOM) if data.startswith(BOM) else 0
        if MARKUP.match(data, start):
            self._stopped = True
            return 0
        found = raw_record(data, start, last=last)
        if found is None:
            return 0
        raw, ending, following = found
        names = parse_header(b",".join(raw))
        self._width = len(names)
        for place, name in enumerate(names):
            method = self._methods.get(name)
            if method is None:
                self.columns += (name,)
                continue
            self.masked[name] = method.value
            if method is MaskMethod.DROP:
                self._dropped.insert(0, place)  # from the last to the first, so that places stay true while columns go
            else:
                self.columns += (name,)
                self._changes.append((place, method))
        self.absent = tuple(sorted(set(self._methods) - set(self.masked)))
        if not self.columns:
            raise ConfigurationError(f"the mask drops every column of the file ({', '.join(sorted(self.masked))}): keep one")
        for place in self._dropped:
            del raw[place]
        out.append(data[:start] + b",".join(raw) + ending)
        return following

    def _records(self, data: bytes, at: int, out: list[bytes], *, last: bool) -> int:
        """All whole records from `at` on; answers where the first one that is not whole begins."""
        while at < len(data):
            end = data.find(b"\n", at)
            line = data[at:end] if end >= 0 else b'"'
            ending = b"\n"
            if line.endswith(b"\r"):
                line, ending = line[:-1], b"\r\n"
            if b'"' not in line and b"\r" not in line:
                raw, following = line.split(b","), end + 1
            else:
                found = raw_record(data, at, last=last)
                if found is None:
                    return at
                raw, ending, following = found
            if len(raw) != self._width or (not line and self._width == 1):
                self._stopped = True
                return at
            out.append(self._masked(raw) + ending)
            at = following
        return at

    def _masked(self, raw: list[bytes]) -> bytes:
        for place, method in self._changes:
            if raw[place]:
                raw[place] = MASKED if method is MaskMethod.MASK else self._hash(raw[place])
        for place in self._dropped:
            del raw[place]
        # The only cell left of a record would make an empty line, which is no record.
        return b",".join(raw) if len(raw) > 1 else raw[0] or b'""'

    def _hash(self, cell: bytes) -> bytes:
        value = cell[1:-1].replace(b'""', b'"') if cell.startswith(b'"') else cell
        return hmac.digest(self._key, value, "sha256").hex()[:HASH_DIGITS].encode()
