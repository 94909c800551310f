"""For tests of your own pipelines: a clock that you own, a ledger without a file, a live service, landed partitions.

With `pytest_plugins = ["keen_pipeline.testing"]` in the `conftest.py` at the root of your tests, pytest has the fixtures
`keen_landing` (a KeenLanding: partitions landed from literal events in milliseconds, without a service) and `keen_service` (an
embedded service, on a free port of this machine, for a whole test session). They are no `pytest11` entry point, so that nobody
whose environment happens to have this package loads them.

>>> from keen_pipeline.testing import memory_ledger
>>> memory_ledger().open_entries()
[]
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ports import Clock
from keen_pipeline.scope import Scope

if TYPE_CHECKING:
    from keen_pipeline.service.embedded import Endpoint
    from keen_pipeline.testing.fixtures import keen_landing, keen_service
    from keen_pipeline.testing.landing import KeenLanding

__all__ = ["FakeClock", "KeenLanding", "keen_landing", "keen_service", "live_service", "memory_ledger"]

# Loaded at their first use: the fixtures need pytest, which the doubles don't.
_HOMES = {
    "KeenLanding": "keen_pipeline.testing.landing",
    "keen_landing": "keen_pipeline.testing.fixtures",
    "keen_service": "keen_pipeline.testing.fixtures",
}


class FakeClock:
    """Time that moves only by `sleep` and `advance`; starts at `start` (aware, default 2026-01-10 01:00 UTC)."""

    def __init__(self, start: datetime = datetime(2026, 1, 10, 1, tzinfo=timezone.utc)) -> None:
        self._now = start.astimezone(timezone.utc)

    def now(self) -> datetime:
        """The fake instant, aware UTC."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on by `seconds` at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self._now += timedelta(seconds=seconds)


def memory_ledger(*, clock: Clock | None = None, scope: Scope | None = None) -> SqlLedger:
    """A real ledger on a SQLite database in memory, gone with the object. `scope`: whose entries, by default a test's."""
    return SqlLedger(open_engine("sqlite://"), scope or Scope("projects/test", "/landing"), clock=clock)


@contextmanager
def live_service(**options: object) -> Iterator[Endpoint]:
    """An embedded service in a process and folder of its own, on a free port; both gone after the block.

    `options` are those of `keen_pipeline.service.embedded.start`.
    """
    from keen_pipeline.service import embedded

    with TemporaryDirectory(prefix="keen-service-") as folder, embedded.start(Path(folder), **options) as service:  # type: ignore[arg-type]
        yield service.endpoint


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
