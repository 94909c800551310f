"""`keen-pipeline dev`, seen and clicked through in a real Chromium."""

from __future__ import annotations

import csv
import shutil
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from keen_pipeline_tests.acceptance.processes import Shell, await_ui

if TYPE_CHECKING:  # the browser's driver is in the extra `dev`, which the README's test command does without
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

# Without these Chromium asks for things of the wide world at every start.
_QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-gpu"]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *_QUIET])
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The UI's address and the folder it runs in."""
    folder = tmp_path_factory.mktemp("dev")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shell, log = Shell(folder), folder / "log"
    dev = shell.start("dev", "--port", str(port), log=log)
    try:
        await_ui(log, port, dev, 120)
        yield f"http://127.0.0.1:{port}", folder
    finally:
        dev.terminate()
        dev.wait(60)
    assert shell.await_nothing_left() == []


def test_the_graph_shows_the_collections_and_the_downstream_asset(page: Page, ui: tuple[str, Path], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.goto(f"{ui[0]}/asset-groups/")
    for name in ("purchases", "logins", "pageviews", "daily_revenue"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.screenshot(path=tmp_path / "graph.png")


@pytest.mark.timeout(600)
def test_a_backfill_of_five_days_by_clicking_ends_green_with_counts(page: Page, ui: tuple[str, Path], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    url, folder = ui
    yesterday = datetime.now(timezone.utc).date() - timedelta(days=1)
    days = [(yesterday - timedelta(days=ago)).isoformat() for ago in range(4, -1, -1)]
    page.goto(f"{url}/assets/keen/purchases")
    page.get_by_role("button", name="Materialize…").click()
    page.get_by_placeholder("No matching partitions").fill(f"[{days[0]}...{days[-1]}]")
    page.keyboard.press("Enter")
    expect(page.get_by_text("5 partitions", exact=True)).to_be_visible()
    page.screenshot(path=tmp_path / "dialog.png")
    page.get_by_role("button", name="Launch backfill").click()
    page.goto(f"{url}/runs/?view=backfills")
    expect(page.get_by_text("Manually launched").first).to_be_visible()
    expect(page.get_by_text("Success").first).to_be_visible(timeout=180_000)
    expect(page.get_by_text("Failure")).to_have_count(0)
    page.screenshot(path=tmp_path / "backfill.png")
    page.goto(f"{url}/assets/keen/purchases?view=partitions&partition={days[-1]}")
    file = folder / "data" / "landing" / "purchases" / f"{days[-1]}.csv"
    with file.open(newline="", encoding="utf-8") as landed:
        events = sum(1 for _ in csv.reader(landed)) - 1
    expect(page.get_by_text("keen/events", exact=True).first).to_be_visible()
    expect(page.get_by_text(f"{events:,}", exact=True).first).to_be_visible()
    page.screenshot(path=tmp_path / "partition.png")
    with dg.DagsterInstance.from_config(str(folder / "data" / "dagster")) as instance:
        # The night that `dev` runs on the sample lands some of these days too.
        assert set(days) <= instance.get_materialized_partitions(dg.AssetKey(["keen", "purchases"]))
        clicked = dg.RunsFilter(tags={"dagster/asset_partition_range_start": days[0]})
        runs = [run for run in instance.get_runs(clicked) if dg.AssetKey(["keen", "purchases"]) in (run.asset_selection or ())]
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS]
