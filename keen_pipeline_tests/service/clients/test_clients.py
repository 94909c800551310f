"""What Keen's clients send and expect: CORS, bulk answers, beacons, names, compressed bodies, parameters, discovery."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from keen_pipeline.service.names import check_event_collection
from keen_pipeline_tests.service.configured import configured
from keen_pipeline_tests.service.http_client import Http

PAGE = "https://shop.example"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
@pytest.mark.parametrize("path", ["/2.0/projects/x/purchases", "/3.0/projects/x/events", "/3.0/projects/x/queries/count"])
def test_a_browser_may_ask_from_any_page(http: Http, method: str, path: str) -> None:
    asked = {"Access_Control_Request_Method": method, "Access_Control_Request_Headers": "authorization,content-type,keen-sdk"}
    answer = http.request("OPTIONS", path, key=None, Origin=PAGE, **asked)
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert method in answer.headers["Access-Control-Allow-Methods"]
    assert set(answer.headers["Access-Control-Allow-Headers"].split(",")) >= {"authorization", "content-type", "keen-sdk"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/healthz", 200), ("GET", "/3.0/projects", 401), ("GET", "/4.0", 404), ("PUT", "/healthz", 405)],
)
def test_every_answer_may_be_read_by_any_page_errors_too(http: Http, method: str, path: str, status: int) -> None:
    answer = http.request(method, path, key=None, Origin=PAGE)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, "*")


def test_a_batch_answers_for_each_event_in_keens_words_and_nothing_takes_anything_along(http: Http, collection: str) -> None:
    batch = {
        "$money": [{"a": 1}, {"a": 2}],
        collection: [
            {"a": 1},
            {"": 1},
            {"b\ud800": 1},
            {"a": "\udc00"},
            {"a": {"c" * 257: 1}},
            {"a": 1, "keen": {"timestamp": "soon"}},
            7,
            {"a": 2},
        ],
    }
    answer = http.json("POST", f"{http.v3}/events", body=batch, key="write_key")
    names = {name: [one.get("error", {}).get("name") for one in results] for name, results in answer.items()}
    assert names == {
        "$money": ["InvalidCollectionNameError"] * 2,
        collection: [
            None,
            "InvalidPropertyNameError",
            "InvalidPropertyNameError",
            "InvalidPropertyValueError",
            "InvalidPropertyNameError",
            "InvalidPropertyValueError",
            "InvalidPropertyValueError",
            None,
        ],
    }
    assert [one["success"] for one in answer[collection]] == [True, *[False] * 6, True]
    assert all(one["error"]["description"] for results in answer.values() for one in results if not one["success"])
    assert http.query("select_unique", collection, target_property="a") == [1, 2]


def test_a_single_event_is_refused_by_the_same_names(http: Http, collection: str) -> None:
    for event, code in (({"": 1}, "InvalidPropertyNameError"), ({"a": 1, "keen": 7}, "InvalidPropertyValueError")):
        answer = http.request("POST", f"{http.v3}/events/{collection}", body=event)
        assert (answer.status, answer.json()["error_code"]) == (400, code)
    answer = http.request("POST", f"{http.v3}/events/%24money", body={"a": 1})
    assert (answer.status, answer.json()["error_code"], answer.json()["field"]) == (400, "InvalidCollectionNameError", "collection")


def test_a_batch_that_is_none_is_refused_whole(http: Http, collection: str) -> None:
    for body in ([{"a": 1}], {collection: {"a": 1}}):
        assert http.request("POST", f"{http.v3}/events", body=body).status == 400
    assert http.request("GET", f"{http.v3}/events/{collection}").status == 404


@pytest.mark.parametrize("name", ["user:signup", "a/b", "c++", "keen", "keen.events", "q?x=1#y", "100%", "a b", "[x]", "k" * 64])
def test_names_as_keens_clients_allow_them(http: Http, name: str) -> None:
    path = quote(name, safe="")
    http.json("POST", f"{http.v3}/events/{path}", status=201, body={"a": 1})
    http.json("POST", f"{http.v2}/{path}", status=201, body={"body": {"a": 2}})
    http.add(name, {"a": 3})
    assert http.query("sum", name, target_property="a") == 6
    assert http.json("GET", f"{http.v3}/events/{path}")["name"] == name
    assert http.json("GET", f"{http.v2}/{path}/_count")["result"] == 3
    (link,) = [one["url"] for one in http.json("GET", http.v3)["events"] if one["name"] == name]
    assert http.json("GET", link)["properties"]["a"] == "num"
    (link,) = [one["url"] for one in http.json("GET", http.v2)["collections"] if one["name"] == name]
    made = http.json("POST", f"{link}/_extract", body={})
    http_path = f"{link}/_extract/{made['_id']}"
    assert http.json("GET", http_path)["_id"] == made["_id"]
    assert http.request("DELETE", f"{http.v3}/events/{path}").status == 204
    assert http.query("count", name) == 0


@pytest.mark.parametrize("name", ["", "_x", "$x", "a$b", "k" * 65, " a", "a ", ".a", "a..b", "é", "a\n", "a\0", 7, None])
def test_names_that_nobody_allows(name: Any) -> None:
    with pytest.raises(ValueError, match="is not a legal name"):
        check_event_collection(name)


def beacon(http: Http, collection: str, data: str, *, key: str = "write_key", **more: str) -> Any:
    parameters = {"api_key": getattr(http.endpoint, key), "data": data, "modified": "1", "c": "clv1", **more}
    return http.request("GET", f"{http.v3}/events/{collection}", key=None, params=parameters)


TEXT = json.dumps({"path": "ÿÿÿ>>>???~"}, ensure_ascii=False).encode()
USUAL, URL_SAFE = base64.b64encode(TEXT).decode(), base64.urlsafe_b64encode(TEXT).decode()


@pytest.mark.parametrize(
    "data",
    [USUAL, URL_SAFE, USUAL.rstrip("="), URL_SAFE.rstrip("="), quote(USUAL, safe="")],
    ids=["usual", "url", "bare", "both", "twice"],
)
def test_an_image_beacon_stores_its_event_and_answers_a_pixel(http: Http, collection: str, data: str) -> None:
    assert URL_SAFE != USUAL
    assert USUAL.rstrip("=") != USUAL
    answer = beacon(http, collection, data)
    assert (answer.status, answer.headers["Content-Type"], answer.data[:6]) == (200, "image/gif", b"GIF89a")
    assert http.query("select_unique", collection, target_property="path") == ["ÿÿÿ>>>???~"]


def test_an_image_beacon_may_have_a_number_against_caches(http: Http, collection: str) -> None:
    assert beacon(http, collection, USUAL, _="1700000000").status == 200
    assert beacon(http, collection, USUAL, other="1700000000").json()["field"] == "other"
    assert http.query("count", collection) == 1


def test_a_plus_that_the_client_did_not_encode_is_still_a_plus(http: Http, collection: str) -> None:
    assert "+" in USUAL
    query = f"api_key={http.endpoint.write_key}&data={USUAL}"
    assert http.request("GET", f"{http.v3}/events/{collection}?{query}", key=None).status == 200
    assert http.query("count", collection) == 1


def test_a_beacon_needs_the_write_key_and_an_event(http: Http, collection: str) -> None:
    for key, data, status in (
        ("read_key", USUAL, 401),
        ("write_key", "", 400),
        ("write_key", "!!!", 400),
        ("write_key", "e30", 400),
    ):
        assert beacon(http, collection, data, key=key).status == status
    path = f"{http.v3}/events/{collection}?api_key={http.endpoint.write_key}&data={URL_SAFE}"
    assert http.request("HEAD", path, key=None).status == 400
    assert http.request("GET", f"{http.v3}/events/{collection}?redirect=https://x.example").status == 400
    assert http.request("GET", f"{http.v3}/events/{collection}").status == 404
    assert beacon(http, collection, USUAL, key="master_key").status == 200
    assert http.request("GET", f"{http.v3}/events/{collection}", key="write_key").status == 401
    assert http.query("count", collection) == 1


@pytest.fixture(scope="module")
def redirecting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    with configured(tmp_path_factory.mktemp("redirect") / "data", redirect_hosts=["Shop.example"]) as service:
        yield Http(service.endpoint)


@pytest.mark.parametrize("target", ["https://shop.example/a?b=c#d", "http://SHOP.example:8080"])
def test_a_beacon_redirects_to_a_host_of_the_configuration(redirecting: Http, target: str) -> None:
    answer = beacon(redirecting, "clicks", USUAL, redirect=target)
    assert answer.status == 302
    assert answer.headers["Location"].startswith(target)


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//shop.example",
        "javascript:alert(1)",
        "https://shop.example@evil.example/",
        "https://user:secret@shop.example/",
        "https://evil.example\\@shop.example/",
        "https://shop.example.evil.example/",
        "https://[::1",
        "https://shop.example\r\nX: y",
        "/local",
        "",
    ],
)
def test_a_beacon_redirects_nowhere_else_and_stores_nothing_then(redirecting: Http, http: Http, target: str) -> None:
    redirecting.add("clicks", {"a": 1})
    before = redirecting.query("count", "clicks")
    for service in (redirecting, http):
        answer = beacon(service, "clicks", USUAL, redirect=target)
        assert (answer.status, answer.json()["field"]) == (400, "redirect")
    assert redirecting.query("count", "clicks") == before


def test_a_beacon_api_post_has_its_key_in_the_query_and_any_content_type(http: Http, collection: str) -> None:
    path = f"{http.v3}/events/{collection}?api_key={http.endpoint.write_key}"
    assert http.request("POST", path, key=None, body=b'{"a": 1}', Content_Type="text/plain;charset=UTF-8").status == 201
    assert http.query("count", collection) == 1


def test_compressed_bodies(http: Http, collection: str) -> None:
    path = f"{http.v3}/events/{collection}"
    assert http.request("POST", path, body=gzip.compress(b'{"a": 1}'), Content_Encoding="gzip").status == 201
    query = gzip.compress(json.dumps({"event_collection": collection}).encode())
    assert http.json("POST", f"{http.v3}/queries/count", body=query, Content_Encoding="gzip") == {"result": 1}
    bomb = gzip.compress(b'{"a": "' + b"x" * 20_000_000 + b'"}')
    whole = gzip.compress(b'{"a": 1}')
    for body, coding, status in ((bomb, "gzip", 413), (b"{}", "gzip", 400), (whole[:-4], "gzip", 400), (whole + b"x", "gzip", 400)):
        assert http.request("POST", path, body=body, Content_Encoding=coding).status == status
    answer = http.request("POST", path, body=b"x", Content_Encoding="br")
    assert (answer.status, answer.json()["field"]) == (400, "Content-Encoding")
    assert http.query("count", collection) == 1


def test_parameters_that_clients_send_beside_a_query_are_taken(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    sent: dict[str, Any] = {"event_collection": collection, "include_metadata": True, "max_age": 300}
    for kind in ("count", "extraction"):
        http.json("POST", f"{http.v3}/queries/{kind}", body={**sent, "analysis_type": kind})
        http.json("GET", f"{http.v3}/queries/{kind}", params={**sent, "analysis_type": kind})
    answer = http.request("POST", f"{http.v3}/queries/count", body={**sent, "analysis_type": "sum"})
    assert (answer.status, answer.json()["field"]) == (400, "analysis_type")


def test_empty_and_quoted_timeframes_and_zones(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1}, {"a": 2, "keen": {"timestamp": "2001-01-01T00:00:00Z"}})
    count = f"{http.v3}/queries/count?event_collection={collection}"
    assert http.json("GET", f"{count}&timeframe=&timezone=") == {"result": 2}
    assert http.json("GET", f"{count}&timeframe=%22this_2_years%22&timezone=%22UTC%22") == {"result": 1}
    assert http.json("GET", f"{http.v2}/{collection}/_count?timeframe=%22this_2_years%22") == {"result": 1}
    assert http.request("GET", f"{count}&timeframe=%22").status == 400
    assert http.request("DELETE", f"{http.v3}/events/{collection}?timeframe=%22this_2_years%22&").status == 204
    assert http.query("select_unique", collection, target_property="a") == [2]


@pytest.mark.parametrize("where", ["body", "query"])
def test_a_delete_deletes_what_its_filters_say_wherever_they_stand(http: Http, collection: str, where: str) -> None:
    http.add(collection, *[{"n": n} for n in range(4)])
    filters = [{"property_name": "n", "operator": "gte", "property_value": 2}]
    given = {"body": {"filters": filters}} if where == "body" else {"params": {"filters": filters}}
    assert http.request("DELETE", f"{http.v3}/events/{collection}", **given).status == 204  # type: ignore[arg-type]
    assert http.query("select_unique", collection, target_property="n") == [0, 1]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"body": {"filter": []}}, "filter"),
        ({"params": {"Filters": []}}, "Filters"),
        ({"body": {"timeframe": "today", "force": True}}, "force"),
        ({"body": [1]}, "body"),
        ({"body": b"filters"}, "body"),
        ({"params": {"filters": []}, "body": {"filters": []}}, "filters"),
        ({"params": {"filters": ""}}, "filters"),
        ({"params": {"timeframe": ""}}, "timeframe"),
        ({"body": {"filters": None}}, "filters"),
        ({"body": {"timeframe": None, "filters": []}}, "timeframe"),
        ({"params": {"filters": []}}, "filters"),
        ({"body": {"filters": "[]"}}, "filters"),
        ({"params": {"timeframe": '""'}}, "timeframe"),
        ({"body": b'{"filters": [], "filters": []}'}, "filters"),
    ],
)
def test_a_delete_that_is_not_understood_deletes_nothing(http: Http, collection: str, given: dict[str, Any], field: str) -> None:
    http.add(collection, {"a": 1})
    answer = http.request("DELETE", f"{http.v3}/events/{collection}", **given)
    assert (answer.status, answer.json()["field"]) == (400, field)
    assert http.query("count", collection) == 1


def test_a_parameter_given_twice_in_an_address_is_refused(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    for path in (f"{http.v2}/{collection}/_count?timeframe=today&timeframe=yesterday", f"{http.v3}/events?x=1"):
        assert http.request("GET", path).status == 400
    assert http.request("POST", f"{http.v3}/events/{collection}?filters=1", body={"a": 1}).json()["field"] == "filters"
    assert http.query("count", collection) == 1


def test_properties_whose_names_look_like_those_of_the_other_version(http: Http, collection: str) -> None:
    http.add(
        collection,
        {"header:x": 1, "body:y": {"z": 1}, "y": 5},
        {"header:x": 2, "body:y": {"z": 2}, "y": 6},
        {"header:timestamp": 9, "y": 7},
    )
    assert http.query("sum", collection, target_property="header:x") == 3
    assert http.query("sum", collection, target_property="body:y.z") == 3
    two = [{"property_name": "header:x", "operator": "eq", "property_value": 2}]
    either = [{"operator": "or", "operands": [*two, {"property_name": "body:y.z", "operator": "eq", "property_value": 1}]}]
    there = [{"property_name": "body:y", "operator": "exists", "property_value": True}]
    assert [http.query("count", collection, filters=filters) for filters in (two, either, there)] == [1, 2, 2]
    assert http.query("extraction", collection, property_names=["header:x"], filters=two) == [{"header:x": 2}]
    # A property in an object comes before one whose name has the dot itself.
    http.add(collection, {"a.b": 1, "a": {"b": 2}}, {"a.b": 4})
    assert http.query("sum", collection, target_property="a.b") == 2 + 4
    # v2.0's names still mean what they mean in v2.0, in either version.
    assert http.query("sum", collection, target_property="body:q") == 0
    answer = http.json("GET", f"{http.v2}/{collection}/_select_unique", params={"distinct_property": "body:y"})
    assert sorted(answer["results"]) == [5, 6, 7]
    answer = http.json("GET", f"{http.v2}/{collection}/_select_unique", params={"distinct_property": "body:a:b"})
    assert sorted(answer["results"]) == [2, 4]
    nine = [{"property_name": "header:timestamp", "operator": "eq", "property_value": 9}]
    assert http.request("DELETE", f"{http.v3}/events/{collection}", body={"filters": nine}).status == 204
    assert http.query("count", collection) == 4


def test_discovery_leads_from_the_root_to_the_collections(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    for version in http.json("GET", "/", key=None):
        url = http.json("GET", version["url"], key=None)["projects_resource_url"]
        (project,) = http.json("GET", url, key="read_key")
        assert http.json("GET", project["url"], key="read_key") == project
    assert project["id"] == http.endpoint.project_id
    assert collection in [one["name"] for one in project["events"]]
    assert "extraction" in [one["name"] for one in project["queries"]]
    assert http.json("GET", project["queries_url"], key="read_key") == project["queries"]
    assert collection in [one["name"] for one in http.json("GET", project["events_url"], key="read_key")]
    assert http.request("GET", "/3.0/projects/another").status == 404
    assert http.request("GET", "/3.0/projects", key=None).status == 401


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("queries/funnel", "'funnel' is not offered"),
        ("queries/multi_analysis", "'multi_analysis' is not offered"),
        ("queries/standard_deviation", "'standard_deviation' is not offered"),
        ("queries/saved/monthly/result", "saved queries are not offered"),
        ("datasets/x", "cached datasets are not offered"),
        ("keys", "access keys are not offered"),
        ("events/purchases/properties/amount", "are not resources of this service"),
    ],
)
def test_what_is_absent_says_so_in_a_word(http: Http, path: str, words: str) -> None:
    answer = http.request("POST", f"{http.v3}/{path}", body={})
    assert answer.status == 404
    assert words in answer.json()["message"]


@pytest.mark.parametrize("empty", [None, ""])
def test_a_parameter_that_is_absent_may_stand_there_empty(http: Http, collection: str, empty: Any) -> None:
    http.add(collection, {"a": 1})
    sent = dict.fromkeys(("group_by", "interval", "order_by", "filters", "timeframe", "timezone", "max_age"), empty)
    assert http.query("count", collection, **sent) == 1
    query = "&".join(f"{name}=" for name in sent)
    assert http.json("GET", f"{http.v3}/queries/count?event_collection={collection}&{query}") == {"result": 1}
    answer = http.request("POST", f"{http.v3}/queries/count", body={"event_collection": collection, "steps": []})
    assert (answer.status, answer.json()["field"]) == (400, "steps")


@pytest.mark.parametrize("parameter", ["group_by", "interval", "order_by"])
def test_a_parameter_that_is_absent_says_so_in_a_word(http: Http, collection: str, parameter: str) -> None:
    answer = http.request("POST", f"{http.v3}/queries/count", body={"event_collection": collection, parameter: "x"})
    assert (answer.status, answer.json()["field"]) == (400, parameter)
    assert "does not offer" in answer.json()["message"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), IndexError("a fault of ours")])
def test_a_batch_keeps_what_could_be_stored_when_the_rest_could_not(
    data: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from keen_pipeline.service.application import Service
    from keen_pipeline.service.config import ServiceConfig
    from keen_pipeline.service.http.resources.events import store_batch

    config = ServiceConfig(data=data)
    data.mkdir()
    service = Service(config, "http://127.0.0.1")
    try:
        store = service.store.append

        def append(name: str, encode: Any) -> int:
            if name == "full":
                raise error
            return store(name, encode)

        monkeypatch.setattr(service.store, "append", append)
        answer = store_batch(service, json.dumps({"good": [{"a": 1}], "full": [{"a": 1}], "also": [{"a": 1}]}).encode())
        assert [answer[name][0]["success"] for name in ("good", "full", "also")] == [True, False, True]
        assert answer["full"][0]["error"]["name"] == "ServiceUnavailableError"
        with pytest.raises(type(error)):
            store_batch(service, b'{"full": [{"a": 1}], "empty": []}')
        assert store_batch(service, b'{"full": []}') == {"full": []}
    finally:
        service.close()
