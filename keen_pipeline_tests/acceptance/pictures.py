"""The pictures in README and pages, made anew from `keen-pipeline dev` on the sample in a real Chromium.

    python -m keen_pipeline_tests.acceptance.pictures

They lie in keen_pipeline/docs/pictures: Dagster's asset graph after the first night, one partition with its figures, the nightly
digest as its mail shows it, and the page of the embedded service. Takes some minutes; needs the extra `dev` and Chromium.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from keen_pipeline.notifications.digest import gather
from keen_pipeline.notifications.render import digest_message
from keen_pipeline.pipeline.sample import sample_collections
from keen_pipeline.service import embedded
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_ledger, scope_of
from keen_pipeline_tests.acceptance.processes import Shell, await_ui
from keen_pipeline_tests.servers.ports import free_port

if TYPE_CHECKING:  # the browser's driver is in the extra `dev`, which the README's test command does without
    from playwright.sync_api import Page, ViewportSize

PICTURES = Path(__file__).parents[2] / "keen_pipeline" / "docs" / "pictures"
NAMES = ("graph", "partition", "digest", "service")
MOST_BYTES = 200_000
# Days of the first night that `dev` runs.
_FIRST_NIGHT = 7
_NIGHT_SECONDS = 300.0
_WINDOW: ViewportSize = {"width": 1500, "height": 950}
# Without these Chromium asks for things of the wide world at every start.
_QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-gpu"]


@contextmanager
def chromium() -> Iterator[Page]:
    """A page in a browser of its own."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *_QUIET])
        page = browser.new_page(viewport=_WINDOW)
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)  # five seconds are few for a page of Dagster's on a busy machine
        yield page
        browser.close()


@contextmanager
def running_dev(folder: Path) -> Iterator[str]:
    """The address of the UI of `keen-pipeline dev` in `folder`; afterwards nothing of it is left."""
    port = free_port()
    shell, log = Shell(folder), folder / "log"
    dev = shell.start("dev", "--port", str(port), log=log)
    try:
        await_ui(log, port, dev, 120)
        yield f"http://127.0.0.1:{port}"
    finally:
        dev.terminate()
        dev.wait(60)
    assert shell.await_nothing_left() == []


def take(page: Page, url: str, folder: Path, into: Path) -> None:
    """One PNG for each of NAMES, once the first night of the `dev` in `folder` is over and has woken the asset downstream."""
    yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
    deadline = time.monotonic() + _NIGHT_SECONDS
    with dg.DagsterInstance.from_config(str(folder / "data" / "dagster")) as instance:
        while len(instance.get_materialized_partitions(dg.AssetKey("daily_revenue"))) < _FIRST_NIGHT or instance.get_runs_count(
            dg.RunsFilter(statuses=NOT_FINISHED_STATUSES)
        ):
            assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")[-3000:]
            time.sleep(1)
    into.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size(_WINDOW)
    page.goto(f"{url}/asset-groups/")
    page.get_by_text("daily_revenue", exact=True).first.wait_for()
    page.get_by_text("Passed").first.wait_for()
    page.screenshot(path=into / "graph.png")
    page.goto(f"{url}/assets/keen/purchases?view=partitions&partition={yesterday.isoformat()}")
    page.get_by_text("keen/events", exact=True).first.wait_for()
    page.screenshot(path=into / "partition.png")
    digest, service = _digest(folder, yesterday.isoformat()), embedded.find(folder / "data" / "keen")
    assert service is not None
    page.set_viewport_size({"width": 900, "height": 280})
    page.set_content(digest)
    page.screenshot(path=into / "digest.png", full_page=True)
    page.set_viewport_size({"width": 1100, "height": 540})
    page.goto(f"{service.base_url}/")
    page.screenshot(path=into / "service.png")
    page.set_viewport_size(_WINDOW)


def _digest(folder: Path, night: str) -> str:
    """The body of the mail on the newest partitions."""
    environment = {
        "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{folder / 'data' / 'ledger.db'}",
        "KEEN_PIPELINE_DESTINATION": str(folder / "data" / "landing"),
        "KEEN_PIPELINE_SERVICE_DATA": str(folder / "data" / "keen"),
    }
    settings = Settings.from_environment(environment)
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    try:
        digest = gather(ledger, sample_collections(), night, datetime.now(timezone.utc))
    finally:
        ledger.engine.dispose()
    return str(digest_message(f"digest/{night}", digest).html)


def main() -> int:
    """Make all of them anew, and say how large they are."""
    with TemporaryDirectory(prefix="keen-pictures-") as folder, running_dev(Path(folder)) as url, chromium() as page:
        take(page, url, Path(folder), PICTURES)
    for name in NAMES:
        path = PICTURES / f"{name}.png"
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
