"""A world for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline_tests.pipeline.world import World, day


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Collections `sick` and `well` with one to three events on each of the first nine days."""
    world = World.at(tmp_path / "landing")
    for name in ("sick", "well"):
        for number in range(1, 10):
            for n in range(number % 3 + 1):
                world.api.add(name, day(number, 10 + n), n)
    return world
