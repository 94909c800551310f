"""The separators of a stretch of CSV, seen all at once: a bit for each byte, 64 of them in a word.

With one word for 64 bytes, what is inside quotes is the parity of the quotes before it, and the number of commas before a line
end is a count of bits. NumPy does that outside the interpreter's lock, five to ten times as fast as Python's own `translate`
and `split`, and beside the threads that read, hash and write. No list of places is made: it would cost more than all the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Words = np.ndarray[Any, np.dtype[np.uint64]]

_QUOTE, _COMMA, _LF, _CR = b'",\n\r'
_ONE, _LAST_BIT = np.uint64(1), np.uint64(63)
_STEPS = [np.uint64(1 << step) for step in range(6)]


STRETCH_BYTES = 512 * 1024
"""The most one look takes in: larger ones leave the processor's cache, smaller ones cost more calls."""


class StructureReader:
    """Reads stretches, most of them of at most STRETCH_BYTES, of a document of `columns` columns. Not shared between threads."""

    def __init__(self, columns: int) -> None:
        self._commas_wanted = columns - 1
        self._flags = np.zeros(STRETCH_BYTES, np.bool_)

    def read(self, data: bytes | bytearray, start: int, end: int) -> tuple[int, int] | None:
        """How many records end in `data[start:end]`, which begins with one, and how many bytes they have. None if it is not
        plainly well-formed (which need not mean that it is wrong).

        It must not end with a quote or a CR, of which the next byte decides what they mean.
        """
        stretch = np.frombuffer(data, np.uint8, end - start, start)
        line_ends, commas = self._bits(stretch, _LF), self._bits(stretch, _COMMA)
        returns = self._bits(stretch, _CR) if data.find(_CR, start, end) >= 0 else None
        if data.find(_QUOTE, start, end) >= 0:
            quotes = self._bits(stretch, _QUOTE)
            inside = _inside(quotes)
            around = commas | line_ends
            around |= quotes
            if returns is not None:
                around |= returns
            if not _well_placed(quotes, inside, around):
                return None
            outside = np.invert(inside, out=inside)
            commas &= outside
            line_ends &= outside
            returns = None if returns is None else returns & outside
        if returns is not None and (_shifted(returns) & ~line_ends).any():
            return None  # a lone CR ends a record too
        if self._commas_wanted == 0 and _may_have_empty_line(line_ends, returns):
            return None
        return self._records(commas, line_ends)

    def _records(self, separators: Words, line_ends: Words) -> tuple[int, int] | None:
        wanted = self._commas_wanted
        ends_in = np.bitwise_count(line_ends)
        records = int(ends_in.sum(dtype=np.int64))
        # How many commas are missing until the records that have ended had all of theirs, counting the word itself.
        missing_in = np.multiply(ends_in, wanted, dtype=np.int64)
        missing_in -= np.bitwise_count(separators)
        missing = np.cumsum(missing_in)
        if not 0 <= -int(missing[-1]) <= wanted:
            return None
        places = np.flatnonzero(line_ends)
        whole = _end_of_last(line_ends, places)
        if wanted == 0:
            return records, whole
        # In every word, how many commas shall stand before its first line end, given those in the words before it.
        due = np.subtract(missing, missing_in, out=missing)
        due += wanted
        ends, found, due = line_ends[places], separators[places], due[places]
        while len(ends):
            others = ends & (ends - _ONE)
            if (np.bitwise_count(found & ((ends ^ others) - _ONE)) != due).any():
                return None
            more = np.flatnonzero(others)
            ends, found, due = others[more], found[more], due[more] + wanted
        return records, whole

    def _bits(self, stretch: Any, byte: int) -> Words:
        length = -(-len(stretch) // 64) * 64
        flags = self._flags[:length] if length <= len(self._flags) else np.empty(length, np.bool_)
        np.equal(stretch, byte, out=flags[: len(stretch)])
        flags[len(stretch) :] = False
        return np.packbits(flags, bitorder="little").view("<u8")


def _end_of_last(marks: Words, places: Any) -> int:
    """The place behind the last of some marked bytes, given the words that have any; 0 if none is marked."""
    if not len(places):
        return 0
    word = int(places[-1])
    return word * 64 + int(marks[word]).bit_length()


def _inside(quotes: Words) -> Words:
    """A bit for each byte from an opening quote on until before the closing one."""
    inside = quotes.copy()
    shifted = np.empty_like(inside)
    for step in _STEPS:
        inside ^= np.left_shift(inside, step, out=shifted)
    parity = np.bitwise_xor.accumulate(inside >> _LAST_BIT)
    carried = np.zeros_like(parity)
    carried[1:] = parity[:-1]
    inside ^= np.negative(carried, out=carried)
    return inside


def _well_placed(quotes: Words, inside: Words, around: Words) -> bool:
    """Whether each opening quote stands behind a separator or a quote, each closing one before one."""
    allowed = _shifted(around)
    allowed[0] |= _ONE
    opening = quotes & inside
    if (opening & ~allowed).any():
        return False
    return not (_shifted(quotes ^ opening) & ~around).any()


def _shifted(words: Words) -> Words:
    """Each bit one byte later."""
    moved: Words = words << _ONE
    moved[1:] |= words[:-1] >> _LAST_BIT
    return moved


def _may_have_empty_line(line_ends: Words, returns: Words | None) -> bool:
    """Whether a line may hold nothing but its end: no field at all, when an empty one would be legal."""
    begins = _shifted(line_ends)
    begins[0] |= _ONE
    if returns is not None:
        begins |= _shifted(begins)
    return bool((begins & line_ends).any())
