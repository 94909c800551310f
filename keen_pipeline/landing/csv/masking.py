"""Personal data out of a CSV before anything of it is written: columns hashed, masked or dropped, all other cells as they are.

`hash`: HMAC-SHA256 of the cell's value under the configured key, its first 32 hexadecimal digits, so that equal values stay equal
over files and collections and join, while nobody without the key can try values. `mask`: `***`. `drop`: the column is gone.
What stands for no value (an empty cell, an unquoted `null`) stays as it is in the first two: a masked column has a value wherever
the unmasked one has it, in Parquet too. Quoting is not part of a value.

The rules of the CSV are those of `grammar`. What can't be told to belong to a column (a web page, a record with another number of
columns, a quote that never ends) is not given out, nor anything behind it; the verifier says what is wrong with it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from itertools import compress

from keen_pipeline.collection import MaskMethod, masked_by
from keen_pipeline.errors import ConfigurationError, VerificationError
from keen_pipeline.landing.csv.grammar import RecordReader, column_names, is_null, value_of

HASH_DIGITS = 32
"""Hexadecimal: 128 bits, so that two values of one hash don't happen."""
MASKED = b"***"


class Masker:
    """Takes one file's CSV in pieces (`feed`), then `finish`; both answer the next bytes to write. Memory: one record and a piece.

    `methods`: what to do, by a name that covers columns (`masked_by`); `key`: for `hash`, required if that is used. Not shared
    between threads. After the header, `columns` are those of the written file, `masked` says what was done to which column of the
    file, and `absent` names those of `methods` that cover none.
    """

    def __init__(self, methods: Mapping[str, MaskMethod], key: bytes | None = None) -> None:
        if MaskMethod.HASH in methods.values() and not key:
            raise ConfigurationError("a column is to be hashed, but there is no key: set KEEN_PIPELINE_MASK_KEY")
        self._methods = methods
        self._key = key or b""
        self._reader = RecordReader()
        self._changes: list[tuple[int, MaskMethod]] = []
        self._keeps: list[bool] = []  # by column, whether it is written
        self.stopped = False  # whether something came that belongs to no column; it was kept back, and so is what follows
        self.columns: tuple[str, ...] = ()
        self.masked: dict[str, str] = {}
        self.absent: tuple[str, ...] = tuple(sorted(methods))

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """The file's next bytes, possibly none yet. Raises ConfigurationError if the mask leaves no column."""
        if self.stopped:
            return b""
        self._reader.add(data)
        return self._next()

    def finish(self) -> bytes:
        """The file's last bytes. What is left of a record that never ended is dropped."""
        self._reader.end()
        return b"" if self.stopped else self._next()

    def _next(self) -> bytes:
        out: list[bytes] = []
        try:
            for cells, ending in self._reader:
                out.append((self._header if self._reader.width is None else self._masked)(cells) + ending)
        except VerificationError:
            self.stopped = True
        if self.stopped:
            self._reader = RecordReader()  # what is kept back is not held either
        return b"".join(out)

    def _header(self, cells: list[bytes]) -> bytes:
        names = column_names(cells)
        self._reader.width = len(names)
        covering = [masked_by(self._methods, name) for name in names]
        for place, (name, by) in enumerate(zip(names, covering, strict=True)):
            method = None if by is None else self._methods[by]
            self._keeps.append(method is not MaskMethod.DROP)
            if method is not None:
                self.masked[name] = method.value
            if method in (MaskMethod.HASH, MaskMethod.MASK):
                self._changes.append((place, method))
        self.columns = tuple(compress(names, self._keeps))
        self.absent = tuple(sorted(set(self._methods).difference(covering)))
        if not self.columns:
            raise ConfigurationError(f"the mask drops every column of the file ({', '.join(sorted(self.masked))}): keep one")
        return self._reader.bom + b",".join(compress(cells, self._keeps))

    def _masked(self, cells: list[bytes]) -> bytes:
        for place, method in self._changes:
            if not is_null(cells[place]):
                cells[place] = MASKED if method is MaskMethod.MASK else self._hash(cells[place])
        cells = list(compress(cells, self._keeps))
        # The only cell left of a record would make an empty line, which isn't a record.
        return b",".join(cells) if len(cells) > 1 else cells[0] or b'""'

    def _hash(self, cell: bytes) -> bytes:
        return hmac.digest(self._key, value_of(cell), "sha256").hex()[:HASH_DIGITS].encode()
