"""Ninety days of three collections with one click, one extraction failing for good, mended by "re-execute from failure"."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from keen_pipeline.client import KeenClient
from keen_pipeline.testing import live_service
from keen_pipeline_tests.acceptance.processes import Shell, await_text
from keen_pipeline_tests.acceptance.test_browser import page  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

NAMES = ("purchases", "logins", "pageviews")
FIRST = date(2026, 1, 1)
DAYS = [(FIRST + timedelta(days=n)).isoformat() for n in range(90)]
BAD = DAYS[40]


@dataclass(frozen=True)
class Ui:
    url: str
    folder: Path


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    folder = tmp_path_factory.mktemp("backfill")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    collections = [{"name": name, "start_date": FIRST.isoformat()} for name in NAMES]
    (folder / "collections.yaml").write_text(yaml.safe_dump({"collections": collections}))
    with ExitStack() as stack:
        service = stack.enter_context(live_service(options=["--fail-extraction", f"purchases@{BAD}=3"]))
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
            for name in NAMES:
                client.add_events({name: [{"keen": {"timestamp": f"{day}T12:00:00Z"}, "day": n} for n, day in enumerate(DAYS)]})
        env = {
            "KEEN_BASE_URL": service.base_url,
            "KEEN_PROJECT_ID": service.project_id,
            "KEEN_READ_KEY": service.read_key,
            "KEEN_PIPELINE_COLLECTIONS": "collections.yaml",
            "KEEN_PIPELINE_REQUESTS_PER_MINUTE": "5000",
            "KEEN_PIPELINE_RETRY_SECONDS": "0.5",
        }
        shell, log = Shell(folder, env), folder / "log"
        dev = shell.start("dev", "--port", str(port), log=log)
        try:
            await_text(log, "Serving dagster-webserver", dev, 120)
            yield Ui(f"http://127.0.0.1:{port}", folder)
        finally:
            dev.terminate()
            dev.wait(60)
    assert shell.await_nothing_left() == []


def landed(ui: Ui) -> int:
    return len(list((ui.folder / "data" / "landing").rglob("*.csv")))


@pytest.mark.timeout(300)
def test_ninety_days_with_one_click_and_the_failed_one_mended(page: Page, ui: Ui, tmp_path: Path) -> None:  # noqa: F811
    from playwright.sync_api import expect

    shots = Path(os.environ.get("BROWSER_SHOTS", str(tmp_path)))
    page.goto(f"{ui.url}/locations/keen_pipeline.definitions/asset-groups/keen")
    page.get_by_role("button", name="Materialize all").click()
    page.screenshot(path=shots / "1.png")
    page.get_by_placeholder("No matching partitions").fill(f"[{DAYS[0]}...{DAYS[-1]}]")
    page.keyboard.press("Enter")
    expect(page.get_by_text("90 partitions", exact=True).first).to_be_visible()
    page.screenshot(path=shots / "2.png")
    page.get_by_role("button", name="Launch backfill").click()
    page.goto(f"{ui.url}/runs/?view=backfills")
    page.get_by_text("Manually launched").first.wait_for()
    page.screenshot(path=shots / "3.png")
    expect(page.get_by_text("Failed").first).to_be_visible(timeout=200_000)
    page.screenshot(path=shots / "4.png")
