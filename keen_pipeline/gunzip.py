"""gzip unfolded in bounded pieces: bodies of requests, answers and results may have any number of members."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

_PIECE_BYTES = 1024 * 1024
"""The most one step takes in and gives out, so that a few bytes can't unfold into all memory."""
_FIRST_PIECE_BYTES = 4096
"""Of a member, taken in at once: what follows its end is copied, and a member may have 20 bytes."""


class Gunzip:
    """Unfolds gzip of one or more members, whose check sums and lengths are compared. `whole`: none has begun and not ended."""

    def __init__(self) -> None:
        self._begin_member()

    def _begin_member(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._step = _FIRST_PIECE_BYTES
        self.whole = True

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes unfold to. Raises zlib.error if they aren't gzip or a check fails."""
        at = 0
        while at < len(data):
            self.whole = False
            given = data[at : at + self._step]
            piece = self._member.decompress(given, _PIECE_BYTES)
            if piece:
                yield piece
            at += len(given) - len(self._member.unconsumed_tail) - len(self._member.unused_data)
            self._step = min(2 * self._step, _PIECE_BYTES)
            if self._member.eof:
                self._begin_member()


def unzipped(data: bytes, most: int) -> tuple[bytes, bool]:
    """Up to `most` bytes of what gzip holds, and whether that is all of it, unharmed. Raises zlib.error."""
    out, gunzip = bytearray(), Gunzip()
    for piece in gunzip.pieces(data):
        out += piece
        if len(out) > most:
            return bytes(out[:most]), False
    return bytes(out), bool(data) and gunzip.whole
