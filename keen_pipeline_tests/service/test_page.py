"""The page at `/`, in a real Chromium; and what is served to everybody else."""

from __future__ import annotations

import re
import shutil

import pytest

from keen_pipeline_tests.service.http_client import Http


def test_a_browser_gets_the_page_and_others_the_versions(http: Http) -> None:
    page = http.request("GET", "/", key=None, Accept="text/html,*/*")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert [v["version"] for v in http.json("GET", "/", key=None)] == ["2.0", "3.0"]


@pytest.mark.browser
def test_the_page_shows_collections_events_and_extractions(http: Http, collection: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    http.add(collection, {"who": "<b>Ada</b>"}, {"who": "Grace"})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(http.endpoint.base_url + "/")
        page.get_by_label("Read key").fill("wrong")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("alert")).to_contain_text("wrong for this project")
        problems.clear()
        page.get_by_label("Read key").fill(http.endpoint.read_key)
        page.get_by_role("button", name="Show").click()
        page.get_by_role("button", name=f"Open {collection}", exact=True).click()
        expect(page.locator("#events")).to_contain_text('"<b>Ada</b>"')
        page.get_by_role("button", name="Extract all events").click()
        # Whether the row still says "not started" is a matter of milliseconds; that there is one row with a known status is not.
        expect(page.locator("#extractions tr")).to_have_count(1)
        expect(page.locator("#extractions")).to_contain_text(re.compile("not started|complete"))
        http.wait(collection, page.locator("#extractions td").first.inner_text())
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#extractions")).to_contain_text("complete")
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        path = download.value.path()
        assert path.read_text().splitlines()[0] == "header:timestamp,body:who"
        assert http.endpoint.read_key not in page.url
        assert problems == []
        browser.close()
