"""Bounds and faults that are set on the command line, so that clients can be tested against them."""

from __future__ import annotations

import gzip
import json
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest

from keen_pipeline.errors import InvalidInputError, RateLimitedError, ServiceUnavailableError
from keen_pipeline.service import embedded, limits
from keen_pipeline.service.application import Service
from keen_pipeline.service.config import ServiceConfig
from keen_pipeline.service.http.app import canonical_path
from keen_pipeline.service.http.bodies import MAX_CONTAINERS
from keen_pipeline.service.http.parameters import query_fields
from keen_pipeline_tests.service.configured import configured
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http


def test_past_the_limit_of_a_minute_every_request_of_the_kind_is_refused(data: Path) -> None:
    with embedded.start(data, env=clean_environment(), options=["--requests-per-minute", "5"]) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        path = f"{http.v2}/purchases/_extract"
        statuses = [http.request("GET", path).status for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        refused = http.request("POST", path, body={})
        assert refused.status == 429
        assert 50 <= int(refused.headers["Retry-After"]) <= 60
        assert json.loads(refused.data)["error_code"] == "TooManyRequestsError"
        assert http.query("count", "purchases") == 1  # the other kind has a budget of its own
        http.add("purchases", {"a": 2})


def test_the_minute_slides_and_a_refusal_lasts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    counted = limits.RequestsPerMinute()
    for now[0] in (0, 30, 30, 60):
        counted.count("query", 3)
    for now[0] in (60, 119):
        with pytest.raises(RateLimitedError) as refused:
            counted.count("query", 3)
        assert refused.value.retry_after == 120 - now[0]
        counted.count("extraction", 3)
    for now[0] in (120, 120.5):
        counted.count("query", 3)


def test_a_full_queue_refuses_and_what_waits_is_done(data: Path) -> None:
    with embedded.start(data, env=clean_environment(), options=["--max-queue", "2", "--extraction-delay", "1"]) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        path = f"{http.v2}/purchases/_extract"
        answers = [http.request("POST", path, body={}) for _ in range(3)]
        assert [a.status for a in answers] == [200, 200, 429]
        assert int(answers[2].headers["Retry-After"]) > 0
        listed = http.json("GET", path)["results"]
        assert [one["status"] for one in listed] == ["not started"] * 2
        for one in listed:
            http.wait("purchases", one["_id"])


def test_too_large_an_extraction_is_refused(data: Path) -> None:
    with embedded.start(data, env=clean_environment(), options=["--max-extraction-events", "2"]) as service:
        http = Http(service.endpoint)
        http.add("purchases", *[{"n": n} for n in range(3)])
        answer = http.request("POST", f"{http.v2}/purchases/_extract", body={})
        assert (answer.status, json.loads(answer.data)["error_code"]) == (400, "ExtractionTooLargeError")
        few = [{"property_name": "n", "operator": "lt", "property_value": 2}]
        assert http.csv("purchases", filters=few).count(b"\n") == 3
        asked = {"event_collection": "purchases", "email": "ada@example.com"}
        for latest, status in ((2, 200), (3, 400)):
            assert http.request("POST", f"{http.v3}/queries/extraction", body={**asked, "latest": latest}).status == status


def test_too_large_a_synchronous_extraction_is_refused(data: Path) -> None:
    with configured(data, max_sync_events=2) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"n": 1}, {"n": 2})
        assert len(http.query("extraction", "purchases")) == 2
        http.add("purchases", {"n": 3})
        assert len(http.query("extraction", "purchases", latest=2)) == 2
        answer = http.request("POST", f"{http.v3}/queries/extraction", body={"event_collection": "purchases"})
        assert (answer.status, answer.json()["error_code"]) == (400, "ExtractionTooLargeError")


@pytest.mark.parametrize("name", ["purchases", "$refused"])
def test_too_many_events_in_one_request_are_refused_whole(http: Http, collection: str, name: str) -> None:
    """Each would get a result of a hundred bytes and more: 10 MB of `7,` took 7 GB of memory and two minutes."""
    body = json.dumps({collection: [{"a": 1}] * 99_999, name: [7, 7]}, separators=(",", ":")).encode()
    answer = http.request("POST", f"{http.v3}/events", body=gzip.compress(body), Content_Encoding="gzip")
    assert (answer.status, answer.json()["error_code"]) == (413, "RequestTooLargeError")
    assert http.request("GET", f"{http.v3}/events/{collection}").status == 404
    fewer = body.replace(b"[7,7]", b"[7]")
    answer = http.request("POST", f"{http.v3}/events", body=gzip.compress(fewer), Content_Encoding="gzip")
    assert [one["success"] for one in answer.json()[name]] == [False]
    assert http.query("count", collection) == 99_999


def test_no_event_may_be_larger_than_a_body() -> None:
    assert ServiceConfig(Path(), max_body_bytes=2000, max_event_bytes=2000).max_event_bytes == 2000
    with pytest.raises(InvalidInputError, match="max_event_bytes must lie between 1 and 2000, not 2001"):
        ServiceConfig(Path(), max_body_bytes=2000, max_event_bytes=2001)


def test_a_list_has_room_for_all_that_may_be_open() -> None:
    sizes = {(3, 3): 3, (3, 50): 50, (50, 3): 50, (3, 1_000_000): 100_000}
    assert {(most, open_): ServiceConfig(Path(), max_list=most, max_queue=open_).listed for most, open_ in sizes} == sizes


def test_too_many_collections_in_one_request_are_refused_whole(http: Http, collection: str) -> None:
    batch: dict[str, list[dict[str, int]]] = {collection: [{"a": 1}], **{f"none-{number}": [] for number in range(4999)}}
    answer = http.request("POST", f"{http.v3}/events", body={**batch, "none": []})
    assert (answer.status, answer.json()["error_code"]) == (413, "RequestTooLargeError")
    assert http.request("GET", f"{http.v3}/events/{collection}").status == 404
    assert len(http.json("POST", f"{http.v3}/events", body=batch)) == 5000
    assert http.query("count", collection) == 1
    assert http.request("GET", f"{http.v3}/events/none-1").status == 404


@pytest.mark.parametrize(("address", "status"), [("/?" + "%41=%41&" * 100_000, 400), ("/" * 900_000, 404)])
def test_a_long_address_is_refused_before_it_is_taken_apart(http: Http, address: str, status: int) -> None:
    path, _, query = address.encode().partition(b"?")
    began = time.thread_time()
    with nullcontext() if status == 404 else pytest.raises(InvalidInputError, match="more than 1000 parameters"):
        query_fields(query)
    assert len(canonical_path(path)) <= 4096
    assert time.thread_time() - began < 0.05  # of the one thread that answers all others
    assert http.request("GET", address, key=None).status == status


@pytest.mark.parametrize(("path", "body", "brackets"), [("events", '{"%s":[%s]}', 2), ("events/%s", '{"list":[%s]}', 2)])
def test_a_body_of_many_lists_is_refused_before_they_are_made(
    http: Http, collection: str, path: str, body: str, brackets: int
) -> None:
    """Ten kilobytes of gzip were three million lists, and no other request was answered for half a minute."""
    parts = [collection] if "%s" not in path else []
    url = f"{http.v3}/{path}" % (() if parts else (collection,))
    for number, message in ((MAX_CONTAINERS - brackets, "events" if parts else "event"), (MAX_CONTAINERS, "lists and objects")):
        sent = gzip.compress((body % (*parts, ",".join(["[]"] * number))).encode())
        answer = http.request("POST", url, body=sent, Content_Encoding="gzip")
        assert answer.status in (400, 413)
        assert message in answer.json()["message"]
    assert http.request("GET", f"{http.v3}/events/{collection}").status == 404


def test_a_body_of_parameters_is_bounded_before_it_is_read_as_json(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    asked = {"event_collection": collection, "filters": [], "timezone": "UTC"}
    for padding, status in ((0, 200), (1_040_000, 200), (1_050_000, 413)):
        body = gzip.compress(json.dumps(asked).encode() + b" " * padding)
        for url in (f"{http.v3}/queries/count", f"{http.v2}/{collection}/_extract"):
            sent = body if "queries" in url else gzip.compress(b"{}" + b" " * padding)
            assert http.request("POST", url, body=sent, Content_Encoding="gzip").status == status
    assert http.request("DELETE", f"{http.v3}/events/{collection}", body=b"{}" + b" " * 1_050_000).status == 413
    assert http.query("count", collection) == 1


def test_schemas_larger_than_an_answer_are_refused_together_and_given_one_by_one(data: Path) -> None:
    with configured(data, max_answer_bytes=64 * 1024) as service:
        http = Http(service.endpoint)
        for number in range(3):
            http.add(f"shop-{number}", {f"{'k' * 200}{n}": n for n in range(150)})
        answer = http.request("GET", f"{http.v3}/events")
        assert (answer.status, answer.json()["error_code"]) == (400, "ExtractionTooLargeError")
        one = http.json("GET", f"{http.v3}/events/shop-1")
        assert len(one["properties"]) == 153
        assert http.request("DELETE", f"{http.v3}/events/shop-0").status == 204
        assert one in http.json("GET", f"{http.v3}/events")


def test_extractions_told_to_fail(data: Path) -> None:
    with embedded.start(data, env=clean_environment(), options=["--fail-extraction", "purchases@2026-01-05=2"]) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        seen = []
        for day in (4, 5, 5, 5):
            body = {"timeframe": {"start": f"2026-01-0{day}", "end": f"2026-01-0{day + 1}"}}
            made = http.json("POST", f"{http.v2}/purchases/_extract", body=body)
            while (found := http.json("GET", f"{http.v2}/purchases/_extract/{made['_id']}"))["status"] == "not started":
                time.sleep(0.02)
            seen.append(found["status"])
            assert ("message" in found) == (found["status"] == "failed")
        assert seen == ["complete", "failed", "failed", "complete"]


def test_health_and_metrics(http: Http, collection: str) -> None:
    assert http.json("GET", "/healthz", key=None)["project_id"] == http.endpoint.project_id
    http.add(collection, {"a": 1})
    http.csv(collection)
    text = http.request("GET", "/metrics", key=None).data.decode()
    for name in ("keen_events_stored_total", 'keen_extractions_total{status="complete"}', "keen_request_seconds_count"):
        (line,) = [line for line in text.splitlines() if line.startswith(name + " ")]
        assert float(line.rsplit(" ", 1)[1]) >= 1
    before = unfolded(http)
    http.add(collection, {"a": 1})
    assert unfolded(http) > before


def unfolded(http: Http) -> float:
    text = http.request("GET", "/metrics", key=None).data.decode()
    (line,) = [line for line in text.splitlines() if line.startswith("keen_events_unfolded_bytes ")]
    return float(line.rsplit(" ", 1)[1])


def test_many_events_with_a_thousand_properties_are_extracted_at_once(http: Http, collection: str) -> None:
    events = [{f"p{13 * n + i}": i for i in range(13)} for n in range(80)]  # so many that their size is looked at first
    http.add(collection, *events)
    some = [f"p{n}" for n in range(990)]
    assert sum(map(len, http.query("extraction", collection))) == 80 * (13 + 1)
    assert sum(map(len, http.query("extraction", collection, property_names=some))) == 990
    asked = {"event_collection": collection, "property_names": some, "content_type": "text/csv"}
    text = http.request("POST", f"{http.v3}/queries/extraction", body=asked).data
    assert (text.count(b"\n"), text.count(b",")) == (81, 81 * 989)
    assert [event.get("p13") for event in http.query("extraction", collection, latest=79)][-2:] == [None, 0]


def test_invented_methods_are_one_label(http: Http) -> None:
    for number in range(5):
        assert http.request(f"INVENTED{number}", "/healthz", key=None).status == 405
    text = http.request("GET", "/metrics", key=None).data.decode()
    assert 'method="other",status="405"' in text
    assert "INVENTED" not in text


def test_a_gauge_that_cannot_be_read_hides_no_other_metric(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.records, "count_waiting", Mock(side_effect=ServiceUnavailableError("locked")))
    lines = service.metrics.text().decode().splitlines()
    assert "keen_extractions_waiting NaN" in lines
    assert "keen_events_stored_total 1.0" in lines
    assert "keen_extractions_running 0.0" in lines


def test_the_largest_body_that_may_be_sent_fits_into_what_all_may_hold(data: Path) -> None:
    body = b'{"purchases": [{"a": 1}]}'.ljust(20 * 1024 * 1024)
    with configured(data, pending_body_mib=16, max_body_bytes=len(body)) as service:
        http = Http(service.endpoint)
        assert http.json("POST", f"{http.v3}/events", body=body) == {"purchases": [{"success": True}]}
