"""Thirty days of three collections by clicking: one extraction fails for good and is mended, another backfill is stopped."""

from __future__ import annotations

import re
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
from keen_pipeline_tests.acceptance.browser.test_browser import page  # noqa: F401 - a fixture
from keen_pipeline_tests.acceptance.ledger_figures import counts
from keen_pipeline_tests.acceptance.processes import Shell, await_ui
from keen_pipeline_tests.servers.ports import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

BACKFILL = "dagster/backfill"
pytestmark = pytest.mark.browser

DAYS = 30
# The day of each collection's start date, which differ as the sample's do.
STARTS = {"logins": 0, "pageviews": 7, "purchases": 3}
EXPECTED = sum(DAYS - start for start in STARTS.values())


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
    port = free_port()
    wanted = [{"name": name, "start_date": days[start]} for name, start in STARTS.items()]
    (folder / "collections.yaml").write_text(yaml.safe_dump({"collections": wanted}))
    project = {"python_module": "keen_pipeline_tests.acceptance.backfilled_project"}
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [project]}))
    with ExitStack() as stack:
        service = stack.enter_context(live_service(options=options))
        with KeenClient(service.base_url, service.project_id, read_key=service.read_key, write_key=service.write_key) as client:
            for name in STARTS:
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
            "PYTHONPATH": str(Path(__file__).parents[2]),
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


def landed(ui: Ui) -> dict[str, list[str]]:
    """The days of each collection with a file."""
    landing = ui.folder / "data" / "landing"
    return {name: sorted(path.stem for path in (landing / name).glob("*.csv")) for name in STARTS}


def counted_days(ui: Ui, name: str) -> list[str]:
    """The days that the asset downstream of a collection has."""
    with ui.instance as instance:
        return sorted(instance.get_materialized_partitions(dg.AssetKey(f"{name}_counted")))


def expect_green(page: Page, ui: Ui, asset: str, days: Sequence[str]) -> None:  # noqa: F811
    """All its partitions are materialized on its page, and none failed or missing."""
    from playwright.sync_api import expect

    page.goto(f"{ui.url}/assets/{asset}?view=partitions&partition={days[-1]}")
    expect(page.get_by_text(f"Materialized ({len(days)})")).to_be_visible()
    for state in ("Failed", "Missing"):
        expect(page.get_by_text(f"{state} (0)")).to_be_visible()


@pytest.mark.timeout(900)
def test_one_partition_fails_in_words_and_is_mended_from_failure(
    page: Page,  # noqa: F811
    days: list[str],
    tmp_path: Path,
) -> None:
    from playwright.sync_api import expect

    bad = days[20]
    all_days = {name: days[start:] for name, start in STARTS.items()}
    with running_ui(tmp_path, days, ["--fail-extraction", f"purchases@{bad}=3"]) as ui:
        click_all(page, ui)
        expect(page.get_by_text("Failure").first).to_be_visible(timeout=400_000)
        page.screenshot(path=tmp_path / "failed.png")
        assert landed(ui) == {**all_days, "purchases": [day for day in all_days["purchases"] if day != bad]}
        page.locator("a[href^='/runs/b/']").first.click()
        expect(page.get_by_text("purchases").first).to_be_visible()
        backfill = page.url
        with ui.instance as instance:
            [first] = [run for run in instance.get_runs() if BACKFILL in run.tags]
            steps = {one.step_key: one.status.value for one in instance.get_run_step_stats(first.run_id) if one.status}
        assert steps == {
            "keen__logins": "SUCCESS",
            "keen__pageviews": "SUCCESS",
            "keen__purchases": "FAILURE",
            "logins_counted": "SUCCESS",
            "pageviews_counted": "SUCCESS",
        }
        assert {name: counted_days(ui, name) for name in STARTS} == {"logins": days, "pageviews": days, "purchases": []}
        for name in ("logins", "pageviews"):
            expect_green(page, ui, f"{name}_counted", days)
        page.screenshot(path=tmp_path / "downstream.png")
        page.goto(f"{ui.url}/runs/{first.run_id}")
        words = f"1 of {DAYS - STARTS['purchases']} partitions failed"
        expect(page.get_by_text(words).last).to_be_visible()
        page.screenshot(path=tmp_path / "message.png")
        page.goto(f"{ui.url}/assets/keen/purchases?view=partitions&partition={bad}")
        expect(page.get_by_text("Failed").first).to_be_visible()
        page.screenshot(path=tmp_path / "failed-partition.png")
        page.get_by_text("View all historical events (1)").click()
        told = page.get_by_role("dialog").get_by_role("row").filter(has_text="Observation")
        told.locator("[aria-label=arrow_drop_down]").click()
        expect(page.get_by_text("the service reports the extraction as failed").first).to_be_visible()
        page.screenshot(path=tmp_path / "reason.png")
        page.goto(backfill)
        page.locator("button:has([aria-label=expand_more])").last.click()
        page.get_by_role("menuitem", name="Re-execute from failure").click()
        page.goto(f"{ui.url}/runs/?view=backfills")
        expect(page.get_by_text("Success").first).to_be_visible(timeout=300_000)
        page.screenshot(path=tmp_path / "green.png")
        assert landed(ui) == all_days
        with ui.instance as instance:
            again = [run for run in instance.get_runs() if BACKFILL in run.tags and run.run_id != first.run_id]
        assert {run.status for run in again} == {dg.DagsterRunStatus.SUCCESS}
        mended = {key.to_user_string() for run in again for key in run.asset_selection or ()}
        assert mended == {"keen/purchases", "purchases_counted"}
        assert {name: counted_days(ui, name) for name in STARTS} == dict.fromkeys(STARTS, days)
        expect_green(page, ui, "purchases_counted", days)
        assert counts(ui.ledger) == {Status.LANDED: EXPECTED, Status.FAILED: 2, Status.ABANDONED: 1}
        page.goto(f"{ui.url}/assets/keen/purchases?view=partitions")
        page.screenshot(path=tmp_path / "partitions.png")


@pytest.mark.timeout(900)
def test_a_run_that_is_stopped_ends_within_ten_seconds_and_no_other_run_begins(
    page: Page,  # noqa: F811
    days: list[str],
    tmp_path: Path,
) -> None:
    from playwright.sync_api import expect

    with running_ui(tmp_path, days, ["--extraction-delay", "3600"]) as ui:
        click_all(page, ui)
        deadline = time.monotonic() + 300
        while counts(ui.ledger)[Status.SUBMITTED] != EXPECTED:
            assert time.monotonic() < deadline, counts(ui.ledger)
            time.sleep(1)
        with ui.instance as instance:
            [run] = [run for run in instance.get_runs() if BACKFILL in run.tags]
        page.goto(f"{ui.url}/runs/{run.run_id}")
        page.get_by_role("button", name="Terminate").click()
        page.get_by_role("dialog").get_by_role("button", name=re.compile("Terminate")).click()
        expect(page.get_by_text("Canceled", exact=True).first).to_be_visible(timeout=10_000)
        page.screenshot(path=tmp_path / "stopped.png")
        stopped = time.time()
        with ui.instance as instance:
            while not [tick for state in instance.all_instigator_state() for tick in sensor_ticks(instance, state, stopped)]:
                assert time.monotonic() < deadline + 60
                time.sleep(1)
            assert [r.run_id for r in instance.get_runs() if BACKFILL in r.tags] == [run.run_id]
        # The service goes on with what it was asked for; whoever wants it next, or the sensor, lands it.
        assert counts(ui.ledger) == {Status.SUBMITTED: EXPECTED}


def sensor_ticks(instance: dg.DagsterInstance, state: dg._core.scheduler.instigation.InstigatorState, since: float) -> list[object]:  # type: ignore[name-defined]
    """Finished ticks of the status sensor that began after `since`."""
    if state.instigator_name != Names().status_sensor:
        return []
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, after=since, limit=5)
    return [tick for tick in ticks if tick.is_completed]
