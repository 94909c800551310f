"""pytest's fixtures; see `keen_pipeline.testing` for how to load them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keen_pipeline.testing import live_service

if TYPE_CHECKING:
    from keen_pipeline.service.embedded import Endpoint
    from keen_pipeline.testing.landing import KeenLanding


@pytest.fixture
def keen_landing(tmp_path: Path) -> KeenLanding:
    """A destination and a ledger of the test's own, where literal events land: see `KeenLanding`."""
    from keen_pipeline.testing.landing import KeenLanding

    return KeenLanding(tmp_path / "keen")


@pytest.fixture(scope="session")
def keen_service() -> Iterator[Endpoint]:
    """A live embedded service, one for all tests of a session: `base_url`, `project_id`, `read_key`, `write_key`.

    Give each test a collection of its own.
    """
    with live_service() as endpoint:
        yield endpoint
