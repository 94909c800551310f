"""Keen's own JavaScript clients: keen-tracking and keen-analysis in Node and in Chromium, and in Node those before them."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from keen_pipeline_tests.service.http_client import Http

HERE = Path(__file__).parent
PACKAGES = ("keen-tracking@5.0.1", "keen-analysis@3.7.0", "keen-js@3.4.1", "keen.io@0.1.5")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clients."""
    folder = tmp_path_factory.mktemp("js")
    (folder / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=240)
    return folder


def in_node(script: str, installed: Path, http: Http, where: str, collection: str) -> dict[str, Any]:
    """What a script has found."""
    shutil.copy(HERE / script, installed)
    endpoint = http.endpoint
    keys = [endpoint.project_id, endpoint.read_key, endpoint.write_key, endpoint.master_key, collection]
    done = subprocess.run(["node", script, where, *keys], cwd=installed, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_older_clients_in_node(http: Http, collection: str, installed: Path) -> None:
    found = in_node("js_older_clients.cjs", installed, http, http.endpoint.base_url, collection)
    single, bulk = {"created": True}, {collection: [{"success": True}]}
    assert "properties of a collection are not resources" in found.pop("io_property")
    assert "saved queries are not offered" in found.pop("js_saved")
    for client in ("js", "io"):
        assert "does not offer group_by" in found.pop(f"{client}_sum_grouped")
    same = {"single": single, "bulk": bulk, "view": "num", "sum": {"result": 15}, "percentile": {"result": 8}}
    same["select_unique"] = {"result": [1, 2, 4, 8]}
    assert found == {
        **{f"{client}_{name}": answer for client in ("js", "io") for name, answer in same.items()},
        "io_project": http.endpoint.project_id,
        "io_extraction": 4,
        "js_left": 2,
        "io_left": 0,
    }


@pytest.mark.slow
def test_in_node(http: Http, collection: str, installed: Path) -> None:
    name = f"{collection}:node"
    found = in_node("js_clients.mjs", installed, http, urlsplit(http.endpoint.base_url).netloc, name)
    found["select_unique"].sort()
    assert "is not a legal name" in found.pop("refused")
    assert found == {
        "single": {"created": True},
        "bulk": {name: [{"success": True}, {"success": True}]},
        "count": 4,
        "count_unique": 4,
        "select_unique": [1, 2, 4, 8],
        "sum": 15,
        "minimum": 1,
        "maximum": 8,
        "average": 3.75,
        "median": 2,
        "percentile": 8,
        "filtered": 2,
        "metadata": 4,
        "extraction": [8, 4],
        "saved": "ResourceNotFoundError",
        "funnel": "ResourceNotFoundError",
        "left": 3,
    }


@pytest.fixture
def page_url(installed: Path) -> Iterator[str]:
    """A page of another origin that loads both clients."""
    for package in ("keen-tracking", "keen-analysis"):
        shutil.copy(installed / "node_modules" / package / "dist" / f"{package}.js", installed)
    shutil.copy(HERE / "js_page.html", installed)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(installed))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/js_page.html"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.browser
def test_in_chromium_from_a_page_of_another_origin(http: Http, collection: str, page_url: str) -> None:
    from playwright.sync_api import sync_playwright

    endpoint = http.endpoint
    arguments = {
        "host": urlsplit(endpoint.base_url).netloc,
        "projectId": endpoint.project_id,
        "readKey": endpoint.read_key,
        "writeKey": endpoint.write_key,
        "masterKey": endpoint.master_key,
        "collection": f"{collection}:page",
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.goto(page_url)
        try:
            found = page.evaluate("arguments => run(arguments)", arguments)
        except Exception as error:
            raise AssertionError(problems) from error
        browser.close()
    found["select_unique"].sort()
    for name, words in (("grouped", "does not offer group_by"), ("saved", "saved queries are not")):
        assert words in found.pop(name)
    assert found == {
        "viewed": ["A shop's page", True],
        "count": 6,
        "filtered": 2,
        "single": {"created": True},
        "bulk": {f"{collection}:page": [{"success": True}, {"success": True}]},
        "count_unique": 6,
        "select_unique": [1, 2, 4, 8, 16, 32],
        "sum": 63,
        "minimum": 1,
        "maximum": 32,
        "average": 10.5,
        "median": 4,
        "percentile": 32,
        "extraction": 1,
        "refused": "ResourceNotFoundError",
        "left": 0,
    }
