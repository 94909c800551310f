"""`keen-pipeline dev`, seen and clicked through in a real Chromium."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from keen_pipeline_tests.acceptance import pictures

if TYPE_CHECKING:  # the browser's driver is in the extra `dev`, which the README's test command does without
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with pictures.chromium() as page:
        yield page


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The UI's address and the folder it runs in."""
    folder = tmp_path_factory.mktemp("dev")
    with pictures.running_dev(folder) as url:
        yield url, folder


@pytest.mark.timeout(600)
def test_the_pictures_in_readme_and_pages_can_be_made_again(page: Page, ui: tuple[str, Path], tmp_path: Path) -> None:
    pictures.take(page, *ui, tmp_path)
    for name in pictures.NAMES:
        for path in (tmp_path / f"{name}.png", pictures.PICTURES / f"{name}.png"):
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size < pictures.MOST_BYTES


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
        deadline = time.monotonic() + 180  # the word above may be another run's
        while True:
            runs = [run for run in instance.get_runs(clicked) if dg.AssetKey(["keen", "purchases"]) in (run.asset_selection or ())]
            if (runs and all(run.is_finished for run in runs)) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS]
