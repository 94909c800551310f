"""Which connections may stay open: a bound on them in total and from one address, and time limits for those that stand still.

At a bound a new connection takes the place of one that asks nothing: one that has been silent for a while first, then one that is
idle between two requests, then one that has just come, then one whose body does not come. Only when all others are being answered
is the new one turned away.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keen_pipeline.service.http.server.protocol import BoundedProtocol as Connection

_log = logging.getLogger(__name__)
_SILENT, _IDLE, _ASKING = "silent", "idle", "asking"
MAX_UNREAD_BYTES = 512 * 1024 * 1024
"""Of the answers that clients have yet to take; past it those that have waited longest for their reader are given up."""

MAX_HEAD_BYTES_TOGETHER = 64 * 1024 * 1024
"""Of requests of which nobody knows yet who sends them; past it a head that does not come at once is refused."""


class Connections:
    """The open connections of one server; used on its event loop alone.

    `grace`: seconds that a new connection has for its first request before it counts as a silent one.
    """

    def __init__(self, most: int, most_per_address: int, grace: float = 1.0) -> None:
        self._most, self._most_per_address, self._grace = most, most_per_address, grace
        # By address, what each does and since when.
        self._open: dict[str, dict[Connection, tuple[str, float]]] = {}
        self._head_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def admit(self, connection: Connection) -> bool:
        """Give a new connection its place, another one's if need be; False when there is none."""
        neighbours = self._open.get(connection.address, {})
        crowd = neighbours
        if len(neighbours) < self._most_per_address:
            crowd = max(self._open.values(), key=len) if len(self) >= self._most else {}
        if crowd:
            ranked = [(rank, one) for one, place in crowd.items() if (rank := self._rank(one, *place)) is not None]
            if not ranked:
                return False
            _, victim = min(ranked, key=lambda pair: pair[0])
            self.leave(victim)
            victim.abort()
        self._open.setdefault(connection.address, {})[connection] = _SILENT, time.monotonic()
        return True

    def _rank(self, connection: Connection, state: str, since: float) -> tuple[int, float] | None:
        """The lower, the sooner it gives way; None: it is being answered and stays."""
        if state == _SILENT:
            return (0 if since <= time.monotonic() - self._grace else 2), since
        if state == _IDLE:
            return 1, since
        return (3, since) if connection.still_sends() else None

    def asks(self, connection: Connection) -> None:
        """A request has begun on it."""
        self._note(connection, _ASKING)

    def answered(self, connection: Connection) -> None:
        """Its request is answered; it may send the next one."""
        self._note(connection, _IDLE)

    def _note(self, connection: Connection, state: str) -> None:
        neighbours = self._open.get(connection.address, {})
        if connection in neighbours:
            neighbours[connection] = state, time.monotonic()

    def hold_head(self, more: int) -> bool:
        """So many more bytes of half heads are held, or fewer; whether they may be."""
        self._head_bytes += more
        return more <= 0 or self._head_bytes <= MAX_HEAD_BYTES_TOGETHER

    def leave(self, connection: Connection) -> None:
        """It is closed, or about to be. Safe to repeat."""
        neighbours = self._open.get(connection.address, {})
        neighbours.pop(connection, None)
        if not neighbours:
            self._open.pop(connection.address, None)

    def look(self) -> None:
        """Let each close itself when it has stood still for too long; called about once a second."""
        now = time.monotonic()
        for connection in [one for neighbours in self._open.values() for one in neighbours]:
            try:
                connection.look(now)
            except Exception:  # noqa: BLE001 - one connection must end neither the server nor the watch over the others
                _log.exception("connection closed")
                connection.abort()
        self._give_up_unread()

    def _give_up_unread(self) -> None:
        unread = [one for neighbours in self._open.values() for one in neighbours if one.unread_since is not None]
        excess = sum(one.unread_bytes() for one in unread) - MAX_UNREAD_BYTES
        for one in sorted(unread, key=lambda one: one.unread_since or 0):
            if excess > 0:
                excess -= one.unread_bytes()
                one.abort()
