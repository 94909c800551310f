"""Hostile and wrong requests: the right status, a body that names the field, and no change."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from itertools import product
from typing import Any
from urllib.parse import quote

import pytest

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.filters import MAX_CONDITIONS, Filter
from keen_pipeline.service.events.incoming import Columns, EventEncoder
from keen_pipeline.service.events.query import where
from keen_pipeline_tests.service.http_client import Http

GOOD = {"property_name": "a", "operator": "eq", "property_value": 1}


def refused(http: Http, method: str, path: str, status: int, field: str | None = None, **options: Any) -> dict[str, Any]:
    answer = http.request(method, path, **options)
    body: dict[str, Any] = json.loads(answer.data)
    assert answer.status == status, body
    assert answer.headers["Content-Type"] == "application/json"
    assert set(body) >= {"message", "error_code"}
    assert body.get("field") == field, body
    for key in (http.endpoint.read_key, http.endpoint.write_key, http.endpoint.master_key):
        assert key not in answer.data.decode()
    return body


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ("[", "filters"),
        ({"a": 1}, "filters"),
        ([1], "filters[0]"),
        ([{"property_name": "a", "operator": "eq"}], "filters[0].property_value"),
        ([{"operator": "eq", "property_value": 1}], "filters[0].property_name"),
        ([{"property_name": "", "operator": "eq", "property_value": 1}], "filters[0].property_name"),
        ([GOOD, {"property_name": "a", "operator": "like", "property_value": 1}], "filters[1].operator"),
        ([{"property_name": "a", "operator": ["eq"], "property_value": 1}], "filters[0].operator"),
        ([{"property_name": "a", "operator": "exists", "property_value": "true"}], "filters[0].property_value"),
        ([{"property_name": "a", "operator": "in", "property_value": "x"}], "filters[0].property_value"),
        ([{"property_name": "a", "operator": "lt", "property_value": True}], "filters[0].property_value"),
        ([{"property_name": "a", "operator": "lte", "property_value": "x"}], "filters[0].property_value"),
        ([{"property_name": "a", "operator": "eq", "property_value": {"$gt": ""}}], "filters[0].property_value"),
        ([{"property_name": "a", "operator": "regex", "property_value": "("}], "filters[0].property_value"),
        ([{"property_name": "keen.timestamp", "operator": "gt", "property_value": 3}], "filters[0].property_value"),
        ([{"property_name": "header:timestamp", "operator": "contains", "property_value": "x"}], "filters[0].operator"),
        ([{"property_name": "a", "operator": "within", "property_value": {"coordinates": [0]}}], "filters[0].property_value"),
        ([{"operator": "or", "operands": []}], "filters[0].operands"),
        (
            [{"operator": "or", "operands": [{"property_name": "a", "operator": "x", "property_value": 1}]}],
            "filters[0].operands[0].operator",
        ),
        ([GOOD] * 201, "filters"),
        ([{**GOOD, "value": 2}], "filters[0].value"),
        (r'[{"property_name": "a", "operator": "eq", "property_value": "\ud800"}]', "filters[0].property_value"),
        (r'[{"property_name": "\ud800", "operator": "eq", "property_value": 1}]', "filters[0].property_value"),
    ],
)
def test_wrong_filters(http: Http, collection: str, filters: Any, field: str) -> None:
    http.add(collection, {"a": 1})
    refused(http, "POST", f"{http.v2}/{collection}/_extract", 400, field, body={"filters": filters})
    refused(http, "POST", f"{http.v3}/queries/count", 400, field, body={"event_collection": collection, "filters": filters})
    assert http.json("GET", f"{http.v2}/{collection}/_extract") == {"results": []}


@pytest.mark.parametrize(
    ("timeframe", "field"),
    [
        ("last_0_days", "timeframe"),
        ("next_day", "timeframe"),
        ("last_99999_years", "timeframe"),
        (7, "timeframe"),
        (["2026-01-01", "2026-01-02"], "timeframe"),
        ({"start": "2026-01-01"}, "timeframe.end"),
        ({"start": "2026-01-01", "end": "soon"}, "timeframe.end"),
        ({"start": 1, "end": "2026-01-01"}, "timeframe.start"),
        ({"start": "2026-01-02", "end": "2026-01-01"}, "timeframe"),
        ({"start": "2026-02-30", "end": "2026-03-01"}, "timeframe.start"),
        ({"start": "2026-01-01", "end": "2026-01-02", "zone": 1}, "timeframe"),
    ],
)
def test_wrong_timeframes(http: Http, collection: str, timeframe: Any, field: str) -> None:
    http.add(collection, {"a": 1})
    refused(http, "POST", f"{http.v2}/{collection}/_extract", 400, field, body={"filters": [], "timeframe": timeframe})
    refused(http, "DELETE", f"{http.v3}/events/{collection}", 400, field, params={"timeframe": timeframe})
    assert http.query("count", collection) == 1


@pytest.mark.parametrize("zone", ["Mars/Base", 90_000, "../etc/passwd", [], 1.5])
def test_wrong_time_zones(http: Http, collection: str, zone: Any) -> None:
    http.add(collection, {"a": 1})
    body = {"event_collection": collection, "timeframe": "today", "timezone": zone}
    refused(http, "POST", f"{http.v3}/queries/count", 400, "timezone", body=body)


@pytest.mark.parametrize(
    "name", ["_private", "k" * 65, "a%24b", "a%20", "%20a", "..", "a..b", "%2e%2e%2fetc", ".hidden", "a%00b", "a%0ab", "%C3%A9"]
)
def test_wrong_collection_names(http: Http, name: str) -> None:
    before = http.json("GET", f"{http.v2}")["collections"]
    for path in (f"{http.v2}/{name}", f"{http.v3}/events/{name}"):
        answer = http.request("POST", path, body={"body": {"a": 1}})
        # What is normalized away before it is sent has become another path.
        assert answer.status in (400, 404, 405), answer.data
        assert "error_code" in json.loads(answer.data)
    assert http.json("GET", f"{http.v2}")["collections"] == before


BAD_NAMES: list[Any] = [{"": 1}, {"k" * 257: 1}, {f"p{i}": i for i in range(1001)}]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b'{"a": NaN}', "event.a"),
        (b'{"a": 1e999}', "event.a"),
        (b'{"a": ' + b"9" * 5000 + b"}", "event.a"),
        (b"[" * 100_000, "body"),
        ([], "event"),
        ("text", "event"),
        ({}, "event"),
        ({"": 1}, "event"),
        ({"k" * 257: 1}, "event"),
        ({"a": 10**400}, "event.a"),
        ({"a": "\ud800"}, "event"),
        ({"keen": 7}, "keen"),
        ({"a": 1, "keen": {"timestamp": "yesterday"}}, "keen.timestamp"),
        ({"a": 1, "keen": {"timestamp": 1700000000}}, "keen.timestamp"),
        ({"a": 1, "keen": {"id": ""}}, "keen.id"),
        ({f"p{i}": i for i in range(1001)}, "event"),
        ({"a": "x" * 900_001}, "event"),
    ],
    ids=range(19),
)
def test_wrong_events(http: Http, collection: str, event: Any, field: str) -> None:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    refused(http, "POST", f"{http.v3}/events/{collection}", 400, field, body=body, key="write_key")
    refused(http, "GET", f"{http.v3}/events/{collection}", 404)
    if not isinstance(event, bytes):
        http.add(collection, {"good": 1})
        answer = http.json("POST", f"{http.v3}/events", body={collection: [event, {"good": 2}]})
        assert [one["success"] for one in answer[collection]] == [False, True]
        expected = "InvalidPropertyNameError" if event in BAD_NAMES else "InvalidPropertyValueError"
        assert answer[collection][0]["error"]["name"] == expected
        assert http.query("select_unique", collection, target_property="good") == [1, 2]
        schema = http.json("GET", f"{http.v3}/events/{collection}")["properties"]
        assert set(schema) == {"good", "keen.timestamp", "keen.created_at", "keen.id"}


def test_events_at_the_bounds_of_their_names_depth_and_number_of_properties(http: Http, collection: str) -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"a": nested(depth - 1)} if depth else {"a": 1}

    many = {f"p{i}": i for i in range(1000)}
    pairs = [({"k" * 256: 1}, {"k" * 257: 1}), (nested(32), nested(33)), (many, many | {"more": 1})]
    for taken, refused_ in pairs:
        answer = http.json("POST", f"{http.v3}/events", body={f"{collection}-{len(taken)}": [taken, refused_]})
        assert [[one["success"] for one in outcomes] for outcomes in answer.values()] == [[True, False]]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "[[1e999]]", '[{"x": -1e999}]', "9" * 5000])
def test_a_number_that_is_none_takes_no_other_event_along(http: Http, collection: str, number: str) -> None:
    batch = f'{{"{collection}": [{{"n": 1}}, {{"n": {number}}}, {{"n": 12345678901234567890}}]}}'.encode()
    first, second, third = http.json("POST", f"{http.v3}/events", body=batch)[collection]
    assert (first, third, second["error"]["name"]) == ({"success": True}, {"success": True}, "InvalidPropertyValueError")
    asked = f'{{"event_collection": "{collection}", "filters": [{{"property_name": "n", "operator": "gt", "property_value": '
    answer = http.request("POST", f"{http.v3}/queries/count", body=f"{asked}{number}}}]}}".encode())
    assert (answer.status, answer.json()["field"]) == (400, "filters[0].property_value")
    asked = f'{{"event_collection": "{collection}", "latest": {number}, "timezone": {number}}}'
    assert http.request("POST", f"{http.v3}/queries/extraction", body=asked.encode()).status == 400


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({}, "body"),
        ({"body": {}}, "body"),
        ({"body": 1}, "body"),
        ({"body": {"a": 1}, "x": 1}, "x"),
        ({"body": {"keen": {}}}, "body.keen"),
        ({"body": {"a": 1}, "header": 1}, "header"),
        ({"body": {"a": 1}, "header": {"timestamp": "2026-01-01T00:00:00Z", "source": 1}}, "header"),
        ({"body": {"a": 1}, "header": {"timestamp": "x"}}, "header.timestamp"),
    ],
)
def test_wrong_v2_events(http: Http, collection: str, event: Any, field: str) -> None:
    refused(http, "POST", f"{http.v2}/{collection}", 400, field, body=event, key="write_key")
    refused(http, "GET", f"{http.v2}/{collection}", 404)


def test_oversized_bodies(http: Http, collection: str) -> None:
    too_large = b'{"a":"' + b"x" * (10 * 1024 * 1024) + b'"}'
    refused(http, "POST", f"{http.v3}/events/{collection}", 413, body=too_large)
    refused(http, "GET", f"{http.v3}/events/{collection}", 404)


def test_wrong_keys_and_projects(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    one = f"{http.v2}/{collection}"
    for key, status in ((None, 401), ("wrong", 401), ("write_key", 401), ("read_key", 200), ("master_key", 200)):
        assert http.request("GET", f"{one}/_count", key=key).status == status
    for key, status in ((None, 401), ("read_key", 401), ("write_key", 201)):
        assert http.request("POST", one, key=key, body={"body": {"a": 1}}).status == status
    for key in (None, "read_key", "write_key"):
        refused(http, "DELETE", f"{http.v3}/events/{collection}", 401, key=key)
    refused(http, "GET", f"/2.0/projects/another/{collection}", 404)
    refused(http, "POST", f"/3.0/projects/{'0' * 24}/events/{collection}", 404, body={"a": 1})
    assert http.query("count", collection) == 2


def test_the_key_of_the_query_string_is_tried_first(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    path = f"{http.v2}/{collection}/_count"
    assert http.request("GET", path, key="wrong", params={"api_key": http.endpoint.read_key}).status == 200
    assert http.request("GET", path, key="read_key", params={"api_key": "wrong"}).status == 401


def test_head_asks_for_no_mail(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    asked = {"event_collection": collection, "email": "ada@example.com"}
    assert http.request("HEAD", f"{http.v3}/queries/extraction", params=asked).status == 400
    assert http.json("GET", f"{http.v2}/{collection}/_extract") == {"results": []}
    assert http.request("HEAD", f"{http.v3}/queries/extraction", params={"event_collection": collection}).status == 200


def test_unknown_ids_paths_and_methods(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    http.add(f"{collection}-other", {"a": 1})
    made = http.json("POST", f"{http.v2}/{collection}/_extract", body={})
    refused(http, "GET", f"{http.v2}/{collection}/_extract/unknown", 404)
    refused(http, "GET", f"{http.v2}/{collection}-other/_extract/{made['_id']}", 404)
    refused(http, "GET", f"{http.v2}/{collection}-none/_extract", 404)
    refused(http, "POST", f"{http.v2}/{collection}-none/_extract", 404, body={})
    refused(http, "GET", "/4.0/projects", 404, key=None)
    refused(http, "DELETE", f"{http.v2}/{collection}", 405)
    refused(http, "PUT", f"{http.v3}/events/{collection}", 405)
    refused(http, "GET", f"{http.v3}/queries/funnel", 404, params={"event_collection": collection})


@pytest.mark.parametrize(
    ("kind", "parameters", "field"),
    [
        ("count", {"group_by": "a"}, "group_by"),
        ("sum", {}, "target_property"),
        ("sum", {"target_property": ""}, "target_property"),
        ("percentile", {"target_property": "a", "percentile": 101}, "percentile"),
        ("percentile", {"target_property": "a"}, "percentile"),
        ("percentile", {"target_property": "a", "percentile": 10**400}, "percentile"),
        ("percentile", {"target_property": "a", "percentile": True}, "percentile"),
        ("count", {"timezone": 10**400}, "timezone"),
        ("count", {"event_collection": ""}, "event_collection"),
        ("extraction", {"latest": 10**400}, "latest"),
        ("extraction", {"latest": 0}, "latest"),
        ("extraction", {"latest": 1.5}, "latest"),
        ("extraction", {"latest": "x"}, "latest"),
        ("extraction", {"property_names": []}, "property_names"),
        ("extraction", {"property_names": ["a"] * 1001}, "property_names"),
        ("extraction", {"property_names": r'["\ud800"]'}, "body"),
        ("extraction", {"content_type": "text/xml"}, "content_type"),
        ("extraction", {"email": "a@b.c", "latest": 0}, "latest"),
        ("extraction", {"email": "a@b.c", "content_type": "application/json"}, "content_type"),
        ("extraction", {"content_encoding": "br"}, "content_encoding"),
    ],
)
def test_wrong_parameters(http: Http, collection: str, kind: str, parameters: dict[str, Any], field: str) -> None:
    http.add(collection, {"a": 1})
    refused(http, "POST", f"{http.v3}/queries/{kind}", 400, field, body={"event_collection": collection, **parameters})
    without = {} if field in ("group_by", "timezone") else parameters
    refused(http, "POST", f"{http.v3}/queries/{kind}", 400, "event_collection", body=without)


def test_an_address_that_is_not_utf_8_asks_for_nothing_and_deletes_nothing(http: Http, collection: str) -> None:
    http.add(collection, {"city": "München"}, {"city": "Bern"})
    latin = "filters=" + quote('[{"property_name": "city", "operator": "ne", "property_value": "München"}]', encoding="latin-1")
    refused(http, "GET", f"{http.v2}/{collection}/_count?{latin}", 400, "query")
    refused(http, "DELETE", f"{http.v3}/events/{collection}?{latin}", 400, "query")
    assert http.query("count", collection) == 2


def test_filters_that_take_minutes_to_plan_are_refused_and_many_usual_ones_are_not() -> None:
    spellings = ("a{}b{}c{}d{}e{}f{}g{}h".format(*dots) for dots in product((".", r"\."), repeat=7))
    columns = {path: f"p{number}" for number, path in enumerate(spellings)}
    near = [Filter("a.b.c.d.e.f.g.h", "within", {"coordinates": [0, 0], "max_distance_miles": n}) for n in range(MAX_CONDITIONS)]
    with pytest.raises(InvalidInputError, match="too many properties") as raised:
        where(columns, near, None)
    assert raised.value.field == "filters"
    usual = where({"a": "p0"}, [Filter("a", one.operator, one.property_value) for one in near], None)
    assert len(usual.parameters) == 4 * MAX_CONDITIONS


def test_sql_in_names_and_values_is_text(http: Http, collection: str) -> None:
    evil = "a'); DROP TABLE x; --"
    http.add(collection, {evil: evil, 'q"q': "?"})
    assert http.query("select_unique", collection, target_property=evil) == [evil]
    filters = [
        {"property_name": evil, "operator": "eq", "property_value": evil},
        {"property_name": 'q"q', "operator": "contains", "property_value": "?"},
    ]
    assert http.query("count", collection, filters=filters) == 1
    assert evil.encode() in http.csv(collection, filters=filters)


def test_a_distance_beyond_the_range_of_a_double_takes_in_the_whole_earth(http: Http, collection: str) -> None:
    http.add(collection, {"a": [13.4, 52.5]}, {"a": 1})
    near = {"coordinates": [-70, -30], "max_distance_miles": 10**400}
    assert http.query("count", collection, filters=[{"property_name": "a", "operator": "within", "property_value": near}]) == 1


def test_a_property_may_be_called_like_a_list(http: Http, collection: str) -> None:
    http.add(collection, {"[a": 1, "[1]": 2})
    assert http.query("sum", collection, target_property="[a") == 1
    assert http.query("extraction", collection, property_names="[a") == [{"[a": 1}]
    assert http.query("sum", collection, target_property=["[1]"]) == 2


def test_whole_seconds_east_of_utc_may_be_written_with_a_fraction_of_zero(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    assert http.query("count", collection, timeframe="this_2_years", timezone=3600.0) == 1


def test_a_whole_number_may_be_written_with_a_fraction_of_zero(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1}, {"a": 2}, {"a": 3})
    assert len(http.query("extraction", collection, latest=2.0)) == 2


def test_a_collection_that_stands_twice_in_a_batch_loses_no_event(http: Http, collection: str) -> None:
    body = f'\ufeff{{"{collection}": [{{"a": 1}}, 5], "other": [], "{collection}": [{{"a": {{"a": 2}}}}]}}'
    outcomes = http.json("POST", f"{http.v3}/events", body=body.encode())
    assert [one["success"] for one in outcomes[collection]] == [True, False, True]
    assert http.query("count", collection) == 2


def test_a_property_name_of_an_object_means_the_properties_within_it(http: Http, collection: str) -> None:
    events = [{"user": {"id": 1, "at": {"x": 2}}, "users": 3}, {"user": "u"}]
    http.add(collection, *events)
    assert http.query("extraction", collection, property_names=["user"]) == [{"user": events[0]["user"]}, {"user": "u"}]
    named = http.query("extraction", collection, property_names=["body:user:at", "keen"], latest=1)
    assert [set(one["keen"]) for one in named] == [{"timestamp", "created_at", "id"}]


def test_an_event_that_is_refused_leaves_no_property() -> None:
    columns = Columns({}, 1, limit=100)
    encoder = EventEncoder(columns, datetime.now(timezone.utc), 1000)
    encoder.encode({"known": 1})
    before = dict(columns)
    with pytest.raises(InvalidInputError):
        encoder.encode({"fresh": 1, "wrong": "x" * 1001})
    assert (columns, columns.new) == (before, before)
    assert "p" in encoder.encode({"fresh": 1})
    assert [path for path in columns if path not in before] == ["fresh"]
