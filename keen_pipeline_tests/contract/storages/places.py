"""The storages under test, each with eyes of its own on what lies there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keen_pipeline.errors import ConfigurationError, KeenPipelineError, RetryableError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages.local import STAGE_SUFFIX
from keen_pipeline_tests.servers.proxy import HttpProxy

TARGET = "purchases/2026-01-01.csv"
NOW = timedelta(seconds=-2)
"""An age: leftovers of this very moment are older, though S3 rounds its times to seconds."""


@dataclass
class Place:
    """One root. `look`: everything under it by relative path, hidden files and stages too. `unfinished`: how many stages and
    uploads nobody has ended. `leftovers`: whether a killed landing leaves something that is removed later. `shown`: the folder
    of this machine that it is, if it is one."""

    root: str
    look: Callable[[], Mapping[str, bytes]]
    unfinished: Callable[[], int]
    transport: dict[str, Any] = field(default_factory=dict)
    leftovers: bool = True
    shown: Path | None = None
    _made: FileDestination | None = None

    @property
    def is_local(self) -> bool:
        return "://" not in self.root

    def destination(self) -> FileDestination:
        """Made once: a client of S3 takes a second of the processor."""
        self._made = self._made or FileDestination(self.root, transport=self.transport)
        return self._made

    def folder(self) -> Path:
        """The folder of this machine that the root is."""
        assert self.shown is not None
        return self.shown

    def files(self) -> dict[str, bytes]:
        return dict(self.look())


def folder_place(folder: Path, root: str | None = None, transport: dict[str, Any] | None = None) -> Place:
    """A local folder, or one that a server shows as `root`."""

    def look() -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def unfinished() -> int:
        return sum(path.name.endswith(STAGE_SUFFIX) for path in folder.rglob("*"))

    return Place(root or str(folder), look, unfinished, transport or {}, leftovers=root is not None, shown=folder)


def publish(destination: FileDestination, data: bytes) -> None:
    target = f"{destination.uri}/{TARGET}"
    with destination._storage.stage(target) as stage:
        stage.write(data)
        destination._storage.publish(stage, target)


def outcome(destination: FileDestination, data: bytes) -> KeenPipelineError | None:
    """The error, after a look at its form."""
    with ExitStack() as stack:
        raised = stack.enter_context(pytest.raises((ConfigurationError, RetryableError)))
        publish(destination, data)
        stack.pop_all()
        return None
    line = str(raised.value).splitlines()[0]
    assert len(line) < 200, line
    assert "\x1b" not in str(raised.value)
    return raised.value


def behind(place: Place, between: HttpProxy) -> FileDestination:
    return FileDestination(place.root, transport={**place.transport, "endpoint": between.endpoint})
