"""The separators of a stretch of CSV, seen all at once: a bit for each byte, 64 of them in a word.

With one word for 64 bytes, what is inside quotes is the parity of the quotes before it, and the number of commas before a line
end is a count of bits. NumPy does that outside the interpreter's lock, three to five times as fast as Python's own `translate`
and `split`, and beside the threads that read, hash and write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    Words = np.ndarray[Any, np.dtype[np.uint64]]
    Places = np.ndarray[Any, np.dtype[np.int64]]

_QUOTE, _COMMA, _LF, _CR = b'",\n\r'
_ONE, _LAST_BIT = np.uint64(1), np.uint64(63)
_STEPS = [np.uint64(1 << step) for step in range(6)]


class Stretch(NamedTuple):
    """Of a well-formed stretch: records that end in it, commas after the last of these ends, whether it ends inside quotes."""

    records: int
    commas: int
    quoted: bool


class StructureReader:
    """Reads stretches of at most `longest` bytes in a document of `columns` columns. Not shared between threads."""

    def __init__(self, columns: int, longest: int) -> None:
        self._commas_wanted = columns - 1
        self._flags = np.zeros(-(-longest // 64) * 64, np.bool_)

    def read(self, data: bytes | bytearray, start: int, end: int, *, commas: int, quoted: bool, in_field: bool) -> Stretch | None:
        """What `data[start:end]` holds, or None where it is not plainly well-formed (which need not mean that it is wrong).

        `commas`: of the record that has begun before; `quoted`, `in_field`: whether it begins inside quotes, or within an
        unquoted field. It must not end with a quote or a CR, of which the next byte decides what they mean.
        """
        stretch = np.frombuffer(data, np.uint8, end - start, start)
        line_ends = self._flag(stretch, _LF)
        ends = np.flatnonzero(line_ends[: len(stretch)])
        quotes = self._bits(stretch, _QUOTE) if quoted or data.find(_QUOTE, start, end) >= 0 else None
        line_feeds = None if quotes is None else self._bits(stretch, _LF)
        returns = self._bits(stretch, _CR) if data.find(_CR, start, end) >= 0 else None
        separators = self._bits(stretch, _COMMA)
        if quotes is not None and line_feeds is not None:
            inside, quoted = _inside(quotes, quoted)
            around = separators | line_feeds | quotes if returns is None else separators | line_feeds | quotes | returns
            if not _well_placed(quotes, inside, around, in_field=in_field):
                return None
            separators &= ~inside
            returns = None if returns is None else returns & ~inside
            ends = ends[_bit(inside, ends) == 0]
        if returns is not None and not _before_line_feeds(returns, ends):
            return None
        if self._commas_wanted == 0 and _may_have_empty_line(ends, 1 if returns is None else 2):
            return None
        return self._records(separators, ends, commas, quoted)

    def _records(self, separators: Words, ends: Places, commas: int, quoted: bool) -> Stretch | None:
        until = np.cumsum(np.bitwise_count(separators), dtype=np.int64)
        total = commas + int(until[-1])
        if not len(ends):
            return Stretch(0, total, quoted) if total <= self._commas_wanted else None
        word = ends >> 6
        behind = np.bitwise_count(separators[word] >> (ends & 63).astype(np.uint64))
        before = until[word] - behind + commas  # commas until each line end
        records = len(ends)
        wanted = self._commas_wanted
        if before[0] != wanted or (np.diff(before) != wanted).any() or total - wanted * records > wanted:
            return None
        return Stretch(records, total - wanted * records, quoted)

    def _flag(self, stretch: Any, byte: int) -> Any:
        length = -(-len(stretch) // 64) * 64
        flags = self._flags[:length]
        np.equal(stretch, byte, out=flags[: len(stretch)])
        flags[len(stretch) :] = False
        return flags

    def _bits(self, stretch: Any, byte: int) -> Words:
        return np.packbits(self._flag(stretch, byte), bitorder="little").view("<u8")


def _inside(quotes: Words, quoted: bool) -> tuple[Words, bool]:
    """A bit for each byte from an opening quote on until before the closing one; whether the end lies inside."""
    inside = quotes.copy()
    for step in _STEPS:
        inside ^= inside << step
    parity = np.bitwise_xor.accumulate(inside >> _LAST_BIT)
    if quoted:
        parity ^= _ONE
    carried = np.empty_like(parity)
    carried[0] = quoted
    carried[1:] = parity[:-1]
    inside ^= np.uint64(0) - carried
    return inside, bool(parity[-1])


def _well_placed(quotes: Words, inside: Words, around: Words, *, in_field: bool) -> bool:
    """Whether each opening quote stands behind a separator or a quote, each closing one before one."""
    allowed = _shifted(around)
    if not in_field:
        allowed[0] |= _ONE
    if (quotes & inside & ~allowed).any():
        return False
    return not (_shifted(quotes & ~inside) & ~around).any()


def _shifted(words: Words) -> Words:
    """Each bit one byte later."""
    moved: Words = words << _ONE
    moved[1:] |= words[:-1] >> _LAST_BIT
    return moved


def _bit(words: Words, places: Places) -> Words:
    found: Words = (words[places >> 6] >> (places & 63).astype(np.uint64)) & _ONE
    return found


def _before_line_feeds(returns: Words, ends: Places) -> bool:
    """Whether every CR is followed by a LF: a lone one ends a record too."""
    number = int(np.bitwise_count(returns).sum(dtype=np.int64))
    behind = ends[1:] if len(ends) and ends[0] == 0 else ends
    return number == int(_bit(returns, behind - 1).sum(dtype=np.int64))


def _may_have_empty_line(ends: Places, shortest: int) -> bool:
    """Whether a line may hold nothing but its end, of `shortest` bytes: no field at all, where an empty one would be legal."""
    return bool(len(ends) and ends[0] < shortest) or bool((np.diff(ends) <= shortest).any())
