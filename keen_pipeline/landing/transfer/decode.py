"""The content coding of the transfer, undone: gzip, with its trailer checked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from keen_pipeline.errors import TransferError

_PIECE_BYTES = 1024 * 1024
"""The most one step takes in and gives out, so that a few bytes can't unfold into all memory."""
_FIRST_PIECE_BYTES = 4096
"""Of a member, taken in at once: what follows its end is copied, and a member may have 20 bytes."""


class DamagedContentError(TransferError):
    """The bytes came, yet they are not what they should be: going on behind them is no use."""


class GzipDecoder:
    """Unfolds a gzip body of one or more members. The check sum and length of each trailer are compared."""

    def __init__(self) -> None:
        self._begin_member()

    def _begin_member(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._step = _FIRST_PIECE_BYTES
        self._begun = False  # whether the member has had a byte

    def decode(self, data: bytes) -> Iterator[bytes]:
        """The bytes that `data` unfolds to, in pieces. Raises TransferError when it is not gzip or a check fails."""
        at = 0
        try:
            while at < len(data):
                self._begun = True
                given = data[at : at + self._step]
                piece = self._member.decompress(given, _PIECE_BYTES)
                if piece:
                    yield piece
                at += len(given) - len(self._member.unconsumed_tail) - len(self._member.unused_data)
                self._step = min(2 * self._step, _PIECE_BYTES)
                if self._member.eof:
                    self._begin_member()
        except zlib.error as error:
            raise DamagedContentError(f"the compressed results are damaged ({error})") from None

    def finish(self) -> None:
        """The body is over. Raises TransferError when a member has no end."""
        if self._begun:
            raise DamagedContentError("the compressed results ended before their trailer")
