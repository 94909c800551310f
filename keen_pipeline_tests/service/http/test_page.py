"""The page at `/`, in a real Chromium; and what is served to everybody else."""

from __future__ import annotations

import re
import shutil

import pytest

from keen_pipeline_tests.service.http_client import Http


def test_a_browser_gets_the_page_and_others_the_versions(http: Http) -> None:
    page = http.request("GET", "/", key=None, Accept="text/html,*/*")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    text = page.data.decode()
    assert "stores events and extracts them as CSV files" in text
    assert "/credentials.json</code>" in text
    assert [link in text for link in ('href="openapi.json"', 'href="metrics"', 'href="healthz"', "curl -X POST")] == [True] * 4
    for key in (http.endpoint.read_key, http.endpoint.write_key, http.endpoint.master_key):
        assert key not in text
    assert [v["version"] for v in http.json("GET", "/", key=None)] == ["2.0", "3.0"]


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}], ids=str)
def test_a_page_of_another_origin_does_not_learn_where_the_keys_lie(http: Http, headers: dict[str, str]) -> None:
    text = http.request("GET", "/", key=None, Accept="text/html", **headers).data.decode()
    assert "<code>credentials.json in the service's data folder</code>" in text


@pytest.mark.browser
def test_the_page_shows_collections_events_and_extractions(http: Http, collection: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    http.add(collection, {"who": "<b>Ada</b>"}, {"who": "Grace"})
    http.add("0-damaged", {"a": 1})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        damaged = {"status": 200, "json": {"result": None}}  # an error's status would be told on the console
        page.route("**/queries/extraction?event_collection=0-damaged*", lambda route: route.fulfill(**damaged))
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
        extraction_id = page.locator("#extractions tr").get_attribute("data-id")
        assert extraction_id is not None
        http.wait(collection, extraction_id)
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator("#extractions")).to_contain_text("complete")
        cells = page.locator("#extractions td").all_inner_texts()
        assert (cells[1:4], cells[5]) == ([collection, "all events", "none"], "2")
        expect(page.locator("#login")).to_be_hidden()
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        path = download.value.path()
        assert path.read_text().splitlines()[0] == "header:timestamp,body:who"
        assert http.endpoint.read_key not in page.url
        # The link that `serve` prints: straight in, and the key is gone from the address.
        page.goto("about:blank")
        page.goto(f"{http.endpoint.base_url}/#key={http.endpoint.read_key}")
        expect(page.get_by_role("button", name=f"Open {collection}", exact=True)).to_be_visible()
        assert page.url == http.endpoint.base_url + "/"
        assert problems == []
        browser.close()


@pytest.mark.browser
def test_the_page_works_behind_a_proxy_that_shows_the_service_under_a_path(http: Http, collection: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    http.add(collection, {"a": 1})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.route("**/*", lambda route: route.abort())
        page.route("**/keen/**", lambda route: route.continue_(url=route.request.url.replace("/keen/", "/", 1)))
        page.goto(f"{http.endpoint.base_url}/keen/#key={http.endpoint.read_key}")
        page.get_by_role("button", name=f"Open {collection}", exact=True).click()
        expect(page.locator("#events")).to_contain_text('"a":1')
        expect(page.locator("#example")).to_contain_text(f"{http.endpoint.base_url}/keen/3.0/projects/")
        browser.close()
