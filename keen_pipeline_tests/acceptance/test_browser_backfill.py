"""Ninety days of three collections by clicking: one extraction fails for good and is mended, another backfill is stopped."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml

from keen_pipeline.client import KeenClient
from keen_pipeline.defs.names import Names
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.settings import Settings
from keen_pipeline.testing import live_service
from keen_pipeline.wiring import open_ledger, scope_of
from keen_pipeline_tests.acceptance.ledger_figures import counts
from keen_pipeline_tests.acceptance.processes import Shell, await_ui
from keen_pipeline_tests.acceptance.test_browser import page  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

NAMES = ("logins", "pageviews", "purchases")
DAYS = 90


@dataclass(frozen=True)
class Ui:
    """A running `keen-pipeline dev` on a service of its own, with three collections of ninety days."""

    url: str
    folder: Path
    days: Sequence[str]
    settings: Settings

    @property
    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.folder / "data" / "dagster"))

    @property
    def ledger(self) -> SqlLedger:
        return open_ledger(self.settings.ledger_url, scope_of(self.settings))


@contextmanager
def running_ui(folder: Path, days: Sequence[str], options: Sequence[str]) -> Iterator[Ui]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "collections.yaml").write_text(yaml.safe_dump({"collections": [{"name": n, "start_date": days[0]} for n in NAMES]}))
    with ExitStack() as stack:
        service = stack.enter_context(live_service(options=options))
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
            for name in NAMES:
                client.add_events({name: [{"keen": {"timestamp": f"{day}T12:00:00Z"}, "day": n} for n, day in enumerate(days)]})
        environment = {
            "KEEN_BASE_URL": service.base_url,
            "KEEN_PROJECT_ID": service.project_id,
            "KEEN_READ_KEY": service.read_key,
            "KEEN_PIPELINE_COLLECTIONS": "collections.yaml",
            "KEEN_PIPELINE_REQUESTS_PER_MINUTE": "5000",
            "KEEN_PIPELINE_RETRY_SECONDS": "0.5",
            "KEEN_PIPELINE_DESTINATION": str(folder / "data" / "landing"),
            "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{folder / 'data' / 'ledger.db'}",
        }
        settings = Settings.from_environment(environment)
        shell, log = Shell(folder, environment), folder / "log"
        dev = shell.start("dev", "--port", str(port), log=log)
        try:
            await_ui(log, port, dev, 120)
            yield Ui(f"http://127.0.0.1:{port}", folder, days, settings)
        finally:
            dev.terminate()
            dev.wait(60)
    assert shell.await_nothing_left() == []


@pytest.fixture
def days() -> list[str]:
    """The last ninety, which is what the dialog shows of itself."""
    today = datetime.now(timezone.utc).date()
    return [(today - timedelta(days=ago)).isoformat() for ago in range(DAYS, 0, -1)]


def click_all(page: Page, ui: Ui) -> None:  # noqa: F811
    """Materialize all, all partitions, launch."""
    page.goto(f"{ui.url}/asset-groups/")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_placeholder("No matching partitions").wait_for()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_text(f"{DAYS} partitions", exact=True).first.wait_for()
    page.screenshot(path=ui.folder / "dialog.png")
    page.get_by_role("button", name="Launch backfill").click()
    page.goto(f"{ui.url}/runs/?view=backfills")
    page.get_by_text("Manually launched").first.wait_for()


def materialized(ui: Ui) -> dict[str, list[str]]:
    with ui.instance as instance:
        return {name: sorted(instance.get_materialized_partitions(dg.AssetKey(["keen", name]))) for name in NAMES}


@pytest.mark.timeout(900)
def test_one_of_270_fails_in_words_and_is_mended_from_failure(
    page: Page,  # noqa: F811
    days: list[str],
    tmp_path: Path,
) -> None:
    from playwright.sync_api import expect

    bad = days[40]
    with running_ui(tmp_path, days, ["--fail-extraction", f"purchases@{bad}=3"]) as ui:
        click_all(page, ui)
        expect(page.get_by_text("Failure").first).to_be_visible(timeout=400_000)
        all_but_one = {"logins": days, "pageviews": days, "purchases": [day for day in days if day != bad]}
        assert materialized(ui) == all_but_one
        page.locator("a[href^='/runs/b/']").first.click()
        row = page.get_by_role("row").filter(has_text="purchases").or_(page.locator("div").filter(has_text="purchases")).first
        expect(row).to_be_visible()
        expect(page.get_by_text("89", exact=True)).to_be_visible()
        page.screenshot(path=tmp_path / "failed.png")
        backfill = page.url
        with ui.instance as instance:
            [first] = instance.get_runs()
        page.goto(f"{ui.url}/runs/{first.run_id}")
        words = f"269 of 270 partitions landed, 1 failed: purchases[{bad}] abandoned after 3 attempts"
        expect(page.get_by_text(words).last).to_be_visible()
        page.screenshot(path=tmp_path / "message.png")
        page.goto(backfill)
        page.locator("button:has([aria-label=expand_more])").last.click()
        page.get_by_role("menuitem", name="Re-execute from failure").click()
        page.screenshot(path=tmp_path / "again.png")
        page.goto(f"{ui.url}/runs/?view=backfills")
        expect(page.get_by_text("Success").first).to_be_visible(timeout=300_000)
        page.screenshot(path=tmp_path / "green.png")
        assert materialized(ui) == dict.fromkeys(NAMES, days)
        with ui.instance as instance:
            [second] = [run for run in instance.get_runs() if run.run_id != first.run_id]
            assert second.status is dg.DagsterRunStatus.SUCCESS
            assert second.asset_selection == {dg.AssetKey(["keen", "purchases"])}
        assert counts(ui.ledger) == {Status.LANDED: 270, Status.FAILED: 2, Status.ABANDONED: 1}
        page.goto(f"{ui.url}/assets/keen/purchases?view=partitions")
        expect(page.get_by_text(re.compile(f"Materialized.*{DAYS}|{DAYS}.*Materialized")).first).to_be_visible()
        page.screenshot(path=tmp_path / "partitions.png")


@pytest.mark.timeout(900)
def test_a_run_that_is_stopped_ends_within_ten_seconds_and_nobody_goes_on_with_it(
    page: Page,  # noqa: F811
    days: list[str],
    tmp_path: Path,
) -> None:
    from playwright.sync_api import expect

    with running_ui(tmp_path, days, ["--extraction-delay", "3600"]) as ui:
        click_all(page, ui)
        deadline = time.monotonic() + 300
        while counts(ui.ledger)[Status.SUBMITTED] != 270:
            assert time.monotonic() < deadline, counts(ui.ledger)
            time.sleep(1)
        with ui.instance as instance:
            [run] = instance.get_runs()
        page.goto(f"{ui.url}/runs/{run.run_id}")
        page.get_by_role("button", name="Terminate").click()
        page.get_by_role("dialog").get_by_role("button", name=re.compile("Terminate")).click()
        expect(page.get_by_text("Canceled", exact=True).first).to_be_visible(timeout=10_000)
        page.screenshot(path=tmp_path / "stopped.png")
        assert counts(ui.ledger) == {Status.CANCELLED: 270}
        stopped = time.time()
        with ui.instance as instance:
            while not [tick for state in instance.all_instigator_state() for tick in sensor_ticks(instance, state, stopped)]:
                assert time.monotonic() < deadline + 60
                time.sleep(1)
            assert [r.run_id for r in instance.get_runs()] == [run.run_id]
        assert counts(ui.ledger) == {Status.CANCELLED: 270}


def sensor_ticks(instance: dg.DagsterInstance, state: dg._core.scheduler.instigation.InstigatorState, since: float) -> list[object]:  # type: ignore[name-defined]
    """Finished ticks of the status sensor that began after `since`."""
    if state.instigator_name != Names().status_sensor:
        return []
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since, limit=5)
    return [tick for tick in ticks if tick.is_completed]
