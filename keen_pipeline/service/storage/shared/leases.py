"""Leases: claims in the catalogue that expire by the database's time, so that a process that died holds nothing for long."""

# ruff: noqa: S608 - only the expression for the time is put together here, everything else is bound
from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from keen_pipeline.errors import ServiceUnavailableError
from keen_pipeline.service.storage.shared.database import NOW, PostgresDatabase

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Lease:
    """A claim on a name that one holder has."""

    database: PostgresDatabase
    name: str
    holder: str
    seconds: float

    def take(self) -> bool:
        """Take or renew it for its seconds, from now on; false while somebody else has it."""
        sql = (
            f"INSERT INTO leases (name, holder, until) VALUES (?, ?, {NOW} + ?) ON CONFLICT (name) DO UPDATE"
            f" SET holder = EXCLUDED.holder, until = EXCLUDED.until WHERE leases.until <= {NOW} OR leases.holder = EXCLUDED.holder"
            " RETURNING name"
        )
        return bool(self.database.rows(sql, [self.name, self.holder, self.seconds]))

    def end(self) -> None:
        """Give it back, where it is still held."""
        self.database.rows("DELETE FROM leases WHERE name = ? AND holder = ?", [self.name, self.holder])


class Leases:
    """Hands out leases of one catalogue."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def take(self, name: str, seconds: float) -> Lease | None:
        """The lease of a name; None while somebody else has it."""
        lease = Lease(self._database, name, secrets.token_hex(8), seconds)
        return lease if lease.take() else None

    @contextmanager
    def if_free(self, name: str, seconds: float) -> Iterator[Lease | None]:
        """Hold a lease while the block runs, where nobody else has it; else it is given None."""
        lease = self.take(name, seconds)
        try:
            yield lease
        finally:
            if lease is not None:
                lease.end()

    @contextmanager
    def held(self, name: str, seconds: float, *, wait: float) -> Iterator[Lease]:
        """Hold a lease while the block runs. Raises ServiceUnavailableError where it is not free within `wait` seconds."""
        deadline = time.monotonic() + wait
        while (lease := self.take(name, seconds)) is None:
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(f"another process has worked on {name} for {wait:g} s; ask again later")
            time.sleep(_POLL_SECONDS)
        try:
            yield lease
        finally:
            lease.end()
