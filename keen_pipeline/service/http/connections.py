"""Which connections may stay open: a bound on them in total and from one address, and time limits for those that stand still.

At a bound a new connection takes the place of one that asks nothing: one that has been silent for a while first, then one that is
idle between two requests, then one that has just come, then one whose body does not come. Only when all others are being answered
is the new one turned away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol


class Connection(Protocol):
    """An open connection, as far as its place is concerned."""

    address: str

    def still_sends(self) -> bool:
        """Whether a request has begun whose body is not whole yet."""
        ...

    def abort(self) -> None:
        """Close it at once."""
        ...

    def look(self, now: float) -> None:
        """Close it when it has stood still for too long."""
        ...


class _Address:
    def __init__(self) -> None:
        # In order of age, each with the time since which it is there.
        self.silent: dict[Connection, float] = {}
        self.idle: dict[Connection, float] = {}
        self.asking: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self.silent) + len(self.idle) + len(self.asking)

    def discard(self, connection: Connection) -> None:
        for group in (self.silent, self.idle, self.asking):
            group.pop(connection, None)

    def least_useful(self, silent_before: float) -> Connection | None:
        oldest, since = next(iter(self.silent.items()), (None, 0.0))
        if oldest is not None and (since <= silent_before or not self.idle):
            return oldest
        if self.idle:
            return next(iter(self.idle))
        return next((connection for connection in self.asking if connection.still_sends()), None)


class Connections:
    """The open connections of one server; used on its event loop alone.

    `grace`: seconds that a new connection has for its first request before it counts as a silent one.
    """

    def __init__(self, most: int, most_per_address: int, grace: float = 1.0) -> None:
        self._most, self._most_per_address, self._grace = most, most_per_address, grace
        self._addresses: dict[str, _Address] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def admit(self, connection: Connection) -> bool:
        """Give a new connection its place, another one's if need be; False when there is none."""
        place = self._addresses.get(connection.address, _Address())
        if len(place) >= self._most_per_address:
            crowded = place
        elif self._count >= self._most:
            crowded = max(self._addresses.values(), key=len)
        else:
            crowded = None
        if crowded is not None:
            victim = crowded.least_useful(time.monotonic() - self._grace)
            if victim is None:
                return False
            self.leave(victim)
            victim.abort()
        place = self._addresses.setdefault(connection.address, place)
        place.silent[connection] = time.monotonic()
        self._count += 1
        return True

    def asks(self, connection: Connection) -> None:
        """A request has begun on it."""
        self._move(connection, "asking")

    def answered(self, connection: Connection) -> None:
        """Its request is answered; it may send the next one."""
        self._move(connection, "idle")

    def _move(self, connection: Connection, group: str) -> None:
        place = self._addresses.get(connection.address)
        if place is not None and any(connection in each for each in (place.silent, place.idle, place.asking)):
            place.discard(connection)
            getattr(place, group)[connection] = time.monotonic()

    def leave(self, connection: Connection) -> None:
        """It is closed, or about to be. Safe to repeat."""
        place = self._addresses.get(connection.address)
        if place is None:
            return
        before = len(place)
        place.discard(connection)
        self._count -= before - len(place)
        if not len(place):
            del self._addresses[connection.address]

    def look(self) -> None:
        """Let each close itself when it has stood still for too long; called about once a second."""
        now = time.monotonic()
        for connection in self._all():
            connection.look(now)

    def _all(self) -> Iterable[Connection]:
        return [c for place in self._addresses.values() for group in (place.silent, place.idle, place.asking) for c in group]
