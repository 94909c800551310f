"""The service against its own OpenAPI document, by schemathesis: no 5xx, no answer that the document does not describe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keen_pipeline.service.http.app import routes
from keen_pipeline.service.http.operations import OPERATIONS
from keen_pipeline_tests.service.http_client import Http

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "unsupported_method,ignored_auth"
)


def test_the_document_lists_exactly_what_is_routed_and_allowed(http: Http) -> None:
    document = http.json("GET", "/openapi.json", key=None)
    documented = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    routed = {(method, route.path) for route in routes() for method in route.app.allow.split(", ") if method != "OPTIONS"}
    assert routed == documented
    assert len(routed) > 60


def test_options_and_a_wrong_method_say_what_is_allowed(http: Http, collection: str) -> None:
    path = f"{http.v3}/events/{collection}"
    options = http.request("OPTIONS", path, key=None)
    assert (options.status, options.headers["Allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, POST")
    wrong = http.request("PATCH", path, key=None)
    assert (wrong.status, wrong.headers["Allow"], wrong.json()["error_code"]) == (
        405,
        options.headers["Allow"],
        "MethodNotAllowedError",
    )
    assert http.request("DELETE", "/healthz", key=None).headers["Allow"] == "GET, HEAD, OPTIONS"


def test_every_parameter_of_the_document_is_taken_and_no_other(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    for operation in OPERATIONS:
        if operation.keys is None or operation.body is not None:
            continue
        path = operation.path.replace("{project}", http.endpoint.project_id).replace("{collection}", collection)
        refused = http.request(operation.method, path.replace("{extraction_id}", "x"), body={"fitlers": []})
        assert (refused.status, refused.json()["field"]) == (400, "fitlers"), operation.path
        assert all(name in refused.json()["message"] for name in [one.name for one in operation.parameters])


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
