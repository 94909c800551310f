"""The service against its own OpenAPI document, by schemathesis: no 5xx, no answer that the document does not describe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keen_pipeline.service.http.app import make_app
from keen_pipeline_tests.service.http_client import Http

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "unsupported_method,ignored_auth"
)


def test_every_route_is_in_the_document_and_the_other_way_round(http: Http) -> None:
    document = http.json("GET", "/openapi.json", key=None)
    documented = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    app = make_app.__globals__  # the modules whose routes the application serves
    routed = set()
    for module in ("routes_operations", "routes_v2", "routes_v3"):
        for route in app[module].ROUTES:
            path = route.path.replace(":str}", "}")
            kinds = [
                p.rsplit("/", 1)[1]
                for _, p in documented
                if path.endswith("/queries/{type}") and p.startswith(path[: -len("/{type}")])
            ]
            paths = {path.replace("{type}", kind) for kind in kinds} or {path}
            routed |= {(method, one) for one in paths for method in route.methods}
    assert routed == documented


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_thousand_generated_requests_are_answered_as_documented(http: Http, collection: str, tmp_path: Path) -> None:
    http.add(collection, {"a": 1, "b": "x"})
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    # The document as it is, but with a collection that exists, so that requests get past the first look.
    document = http.json("GET", "/openapi.json", key=None)
    document["components"]["schemas"]["Collection"] = {"enum": [collection, "another"]}
    described, report = tmp_path / "openapi.json", tmp_path / "report.ndjson"
    described.write_text(json.dumps(document))
    command = [
        program,
        "run",
        str(described),
        "--url",
        http.endpoint.base_url,
        "--max-examples",
        "15",
        "--checks",
        CHECKS,
        "--seed",
        "1",
    ]
    command += ["--header", f"Authorization: {http.endpoint.master_key}", "--phases", "examples,coverage,fuzzing", "--no-color"]
    command += ["--report", "ndjson", "--report-ndjson-path", str(report)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    cases = sum(len(json.loads(line).get("ScenarioFinished", {}).get("recorder", {}).get("cases", {})) for line in report.open())
    assert cases >= 2000
