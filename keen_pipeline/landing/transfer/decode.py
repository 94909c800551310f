"""The content coding of the transfer, undone: gzip, with its trailer checked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from keen_pipeline.errors import TransferError

_PIECE_BYTES = 1024 * 1024
"""The most one step gives out, so that a few bytes can't unfold into all memory."""


class DamagedContentError(TransferError):
    """The bytes came, yet they are not what they should be: going on behind them is no use."""


class GzipDecoder:
    """Unfolds a gzip body of one or more members. The check sum and length of each trailer are compared."""

    def __init__(self) -> None:
        self._member = self._new()
        self._begun = False  # whether the present member has had a byte

    @staticmethod
    def _new() -> zlib._Decompress:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)

    def decode(self, data: bytes) -> Iterator[bytes]:
        """The bytes that `data` unfolds to, in pieces. Raises TransferError when it is not gzip or a check fails."""
        try:
            while data:
                self._begun = True
                piece = self._member.decompress(data, _PIECE_BYTES)
                if piece:
                    yield piece
                data = self._member.unconsumed_tail
                if self._member.eof:
                    data = self._member.unused_data
                    self._member = self._new()
                    self._begun = False
        except zlib.error as error:
            raise DamagedContentError(f"the compressed results are damaged ({error})") from None

    def finish(self) -> None:
        """The body is over. Raises TransferError when a member has no end."""
        if self._begun:
            raise DamagedContentError("the compressed results ended before their trailer")
