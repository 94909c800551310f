"""One real service process for the tests of this folder; each test uses a collection of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keen_pipeline.service import embedded
from keen_pipeline_tests.service.http_client import Http

_numbers = itertools.count()


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of Keen or of mail."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "SMTP_"))} | extra


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Endpoint]:
    with embedded.start(tmp_path_factory.mktemp("service"), env=clean_environment()) as service:
        yield service.endpoint


@pytest.fixture
def http(endpoint: embedded.Endpoint) -> Http:
    return Http(endpoint)


@pytest.fixture
def collection() -> str:
    return f"purchases-{next(_numbers)}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
