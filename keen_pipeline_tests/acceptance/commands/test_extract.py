"""`keen-pipeline extract` of a service that counts right and delivers short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keen_pipeline_tests.acceptance.place import Here
from keen_pipeline_tests.landing.conftest import example
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import Exchange, FaultServer, document, undelimited

RECORDS, HALF = 80, 40
WORDS = ["extract", "purchases", "--from", "2026-01-01", "--to", "2026-01-02", "--to", "files", "--json"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(
        tmp_path, {"KEEN_PROJECT_ID": "P", "KEEN_READ_KEY": "key", "KEEN_PIPELINE_RETRY_SECONDS": "0.1"}, monkeypatch, capsys
    )


def api(to: Exchange) -> None:
    """Every extraction is complete at once, and the count is right."""
    posted = [number for number, one in enumerate(to.server.requests) if one.method == "POST"]
    if "/_count" in to.request.target:
        answer: object = {"result": RECORDS}
    elif to.request.method == "POST":
        answer = {"_id": f"e{len(posted)}", "status": "not started"}
    elif to.request.target.rstrip("/").endswith("/projects/P"):
        answer = {"collections": [{"name": "purchases"}]}
    else:
        complete = [f"e{number}" for number in range(1, len(posted) + 1)]
        answer = {"results": [{"_id": e, "status": "complete", "results_url": to.server.results_url} for e in complete]}
    document(answer)(to)


def cut_at_a_record() -> faults.Behaviour:
    """A body without a length that ends at a record's end: every client takes it for whole, only the count can tell."""
    return undelimited(len(example(HALF)))


def test_a_file_that_its_count_contradicts_is_asked_for_again(here: Here) -> None:
    with FaultServer(body=example(RECORDS), results=[cut_at_a_record(), faults.whole()], api=[api]) as server:
        here.env = {**here.env, "KEEN_BASE_URL": server.url}
        done = here.run(*WORDS)
    assert done.returncode == 0, done.stderr
    [row] = json.loads(done.stdout)["landings"]
    assert (row["events"], Path(row["uri"]).read_bytes()) == (RECORDS, example(RECORDS))
    assert "late events or a cut result; attempt 2 follows" in done.stderr


def test_one_that_stays_short_is_a_failure_and_kept_aside(here: Here) -> None:
    with FaultServer(body=example(RECORDS), results=[cut_at_a_record()], api=[api]) as server:
        here.env = {**here.env, "KEEN_BASE_URL": server.url}
        done = here.run(*WORDS)
        assert sum(one.method == "POST" for one in server.requests) == 3
    first = next(line for line in done.stderr.splitlines() if line.startswith("keen-pipeline: "))
    told = json.loads(done.stdout)
    [failed] = told["failed"]
    assert (done.returncode, told["landings"], failed["collection"]) == (1, [], "purchases")
    assert f"{HALF} events landed, the service counts {RECORDS}" in failed["error"]
    assert f"{HALF} events landed, the service counts {RECORDS}" in first
    files = here.folder / "files"
    assert not [path for path in files.rglob("*") if path.is_file() and "_quarantine" not in path.parts]
    kept, reason = sorted((files / "_quarantine" / "purchases").iterdir())
    assert kept.read_bytes() == example(HALF)
    assert str(RECORDS) in reason.read_text()


def test_a_partition_whose_file_is_kept_though_short_counts_once(here: Here) -> None:
    (here.folder / "collections.yaml").write_text("collections: [{name: purchases, start_date: 2026-01-01}]")
    with FaultServer(body=example(RECORDS), results=[cut_at_a_record()], api=[api]) as server:
        here.env = {**here.env, "KEEN_BASE_URL": server.url, "KEEN_PIPELINE_COLLECTIONS": "collections.yaml"}
        done = here.run("backfill", "purchases", "--from", "2026-01-01", "--to", "2026-01-01", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, len(told["landings"]), len(told["failed"])) == (1, 1, 1)
    assert "keen-pipeline: 1 of 1 partitions failed\n" in done.stderr
