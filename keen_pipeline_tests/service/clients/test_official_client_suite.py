"""The test suite of Keen's own Python client, 0.7.0, with the service where upstream has a mock.

Each test here has upstream's name, makes upstream's calls and asserts what upstream asserts of the answer, and where an answer is
ours to know, its value. What upstream tests without an answer of the server's stands in LEFT_OUT. Queries and calls that this
service does not offer must say so in a word. `test_official_client` compares the answers with plain Python.

Ported from keen/tests of keenlabs/KeenClient-Python, commit 0cd9421, under its license:

Copyright (c) 2017 Keen Labs

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files
(the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify,
merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES
OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR
IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

from __future__ import annotations

import datetime
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keen
import pytest
import requests
from keen import exceptions, scoped_keys
from keen.cached_datasets import CachedDatasetsInterface
from keen.client import KeenClient
from keen.saved_queries import SavedQueriesInterface

from keen_pipeline.service import embedded
from keen_pipeline.service.embedded import Endpoint
from keen_pipeline_tests.service.clients.test_official_client import official
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http

pytestmark = pytest.mark.slow

VARIABLES = ("project_id", "write_key", "read_key", "master_key", "base_url")
SIGN_UPS = {"username": "timmy", "referred_by": "steve", "son_of": "my_mom"}
BATCH = {"sign_ups": [SIGN_UPS], "purchases": [{"price": 5}, {"price": 6}, {"price": 7}]}
FILTER = [{"property_name": "number", "operator": "eq", "property_value": 5}]
QUERIED = "query test"
FIVE = {"target_property": "number", "timeframe": "today"}
ORDERED = {"property_name": "result", "direction": keen.direction.DESCENDING}


@pytest.fixture
def module(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `keen`, which holds one client, set up for the service; keys are bytes, as upstream's scoped ones are."""
    for name in VARIABLES:
        value = getattr(endpoint, name)
        monkeypatch.setattr(keen, name, value.encode() if name == "write_key" else value)
    monkeypatch.setattr(keen, "_client", None)
    return keen


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> Iterator[KeenClient]:
    """With the two events that upstream's queries were once written for, and one more."""
    made = official(endpoint)
    made.add_events({QUERIED: [{"number": 5, "string": "foo"}] * 2 + [{"number": 7, "string": "foo"}]})
    yield made
    made.delete_events(QUERIED)


def count(client: KeenClient, collection: str) -> int:
    return int(client.count(collection))


# ClientTests


def test_direct_persistence_strategy(module: Any, client: KeenClient) -> None:
    for _ in range(2):
        module.add_event("python_test", {"hello": "goodbye"})
    assert module.add_events(BATCH) == {"sign_ups": [{"success": True}], "purchases": [{"success": True}] * 3}
    assert client.sum("purchases", "price") == 18
    assert client.extraction("sign_ups", property_names=list(SIGN_UPS)) == [SIGN_UPS]
    refused = module.add_events({"sign_ups": [{"": 1}], "purchases": [{"price": 8}]})
    assert (refused["sign_ups"][0]["success"], refused["purchases"]) == (False, [{"success": True}])
    assert (count(client, "sign_ups"), count(client, "purchases")) == (1, 4)


def test_module_level_add_event(module: Any, client: KeenClient) -> None:
    module.add_event("module level", {"hello": "goodbye"})
    assert client.select_unique("module level", "hello") == ["goodbye"]


def test_module_level_add_events(module: Any) -> None:
    assert module.add_events({"python_test": [{"hello": "goodbye"}]}) == {"python_test": [{"success": True}]}


@pytest.fixture
def halted(tmp_path: Path) -> Iterator[KeenClient]:
    """A client that waits for a tenth of a second, of a service that takes connections and answers none until the test is over."""
    with embedded.start(tmp_path / "data", env=clean_environment()) as service:
        client = official(service.endpoint)
        client.add_event("python_test", {"hello": "goodbye"})
        client.api.get_timeout = client.api.post_timeout = 0.1
        os.kill(service.pid, signal.SIGSTOP)
        try:
            yield client
        finally:
            os.kill(service.pid, signal.SIGCONT)
        assert official(service.endpoint).count("python_test") >= 1


def test_post_timeout_single(halted: KeenClient) -> None:
    with pytest.raises(requests.Timeout):
        halted.add_event("python_test", {"hello": "goodbye"})


def test_post_timeout_batch(halted: KeenClient) -> None:
    with pytest.raises(requests.Timeout):
        halted.add_events({"python_test": [{"hello": "goodbye"}]})


def test_timeout_count(halted: KeenClient) -> None:
    with pytest.raises(requests.Timeout):
        halted.count("python_test", timeframe="today", filters=FILTER)


def test_malformed_json_response(module: Any) -> None:
    """Upstream's 401 is a text that is no JSON; ours is JSON, and so the client shows its message and its code."""
    module.write_key = "abcde"
    with pytest.raises(exceptions.KeenApiError, match=r"API key is wrong(.|\n)*InvalidApiKeyError"):
        module.add_event("python_test", {"hello": "goodbye"})


def test_environment_variables(endpoint: Endpoint, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setattr(module, name, None)
        monkeypatch.delenv(f"KEEN_{name.upper()}", raising=False)
    monkeypatch.setenv("KEEN_PROJECT_ID", "12345")
    monkeypatch.setenv("KEEN_WRITE_KEY", "abcde")
    monkeypatch.setenv("KEEN_BASE_URL", endpoint.base_url)
    with pytest.raises(exceptions.KeenApiError, match="ResourceNotFoundError"):
        module.add_event("python_test", {"hello": "goodbye"})


def test_set_keys_using_env_var(endpoint: Endpoint, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setattr(module, name, None)
        monkeypatch.setenv(f"KEEN_{name.upper()}", getattr(endpoint, name))
    module.add_event("from the environment", {"a": 1})
    assert module.count("from the environment") == 1
    assert module.delete_events("from the environment")


def test_configure_through_code(endpoint: Endpoint) -> None:
    client = KeenClient(endpoint.project_id, write_key="abcdef", base_url=endpoint.base_url)
    with pytest.raises(exceptions.KeenApiError, match="InvalidApiKeyError"):
        client.add_event("python_test", {"hello": "goodbye"})


def test_generate_image_beacon(module: Any, http: Http) -> None:
    name = "python_test hello!?"
    answer = http.request("GET", module.generate_image_beacon(name, {"a": "b"}), key=None)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/gif")
    assert http.query("select_unique", name, target_property="a") == ["b"]


def test_generate_image_beacon_timestamp(module: Any, client: KeenClient, http: Http) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
    url = module.generate_image_beacon("beacons", {"a": "ÿ>?~" * 3}, timestamp=moment)
    assert http.request("GET", url, key=None).status == 200
    (event,) = client.extraction("beacons")
    assert (event["a"], event["keen"]["timestamp"]) == ("ÿ>?~" * 3, "2026-01-02T03:04:05.678901Z")


# EventTests


def test_custom_addon(client: KeenClient) -> None:
    """Events are not enriched; what asks for it is kept as it came."""
    client.add_event("addons", {"keen": {"addons": {"asdf": 1}}}, timestamp=datetime.datetime.now())
    (event,) = client.extraction("addons")
    assert event["keen"]["addons"] == {"asdf": 1}
    assert event["keen"]["timestamp"]


# QueryTests

QUERIES: list[tuple[str, Callable[[Any], Any], Any]] = [
    ("test_count", lambda keen: keen.count(QUERIED, timeframe="today", filters=FILTER), 2),
    ("test_sum", lambda keen: keen.sum(QUERIED, **FIVE), 17),
    ("test_minimum", lambda keen: keen.minimum(QUERIED, **FIVE), 5),
    ("test_maximum", lambda keen: keen.maximum(QUERIED, **FIVE), 7),
    ("test_average", lambda keen: keen.average(QUERIED, **FIVE), 17 / 3),
    ("test_median", lambda keen: keen.median(QUERIED, **FIVE), 5),
    ("test_percentile", lambda keen: keen.percentile(QUERIED, percentile=80, **FIVE), pytest.approx(6.2)),
    ("test_count_unique", lambda keen: keen.count_unique(QUERIED, **FIVE), 2),
    ("test_select_unique", lambda keen: keen.select_unique(QUERIED, **FIVE), [5, 7]),
    (
        "test_extraction",
        lambda keen: keen.extraction(QUERIED, timeframe="today", property_names=["number"]),
        [{"number": 5}, {"number": 5}, {"number": 7}],
    ),
]


@pytest.mark.parametrize(("name", "call", "expected"), QUERIES, ids=[name for name, _, _ in QUERIES])
def test_query(module: Any, client: KeenClient, name: str, call: Callable[[Any], Any], expected: Any) -> None:
    found = call(module)
    assert found == expected
    assert type(found) in (int, float, list)
    assert call(client) == expected


# DeleteTests, GetTests


def test_delete_events(module: Any) -> None:
    module.add_events({"foo": [{"username": "Bob"}, {"username": "Ada"}, {"username": None}]})
    assert module.delete_events("foo", filters=[{"property_name": "username", "operator": "eq", "property_value": "Bob"}]) is True
    assert module.select_unique("foo", "username") == ["Ada", None]


def test_get_collection(module: Any, client: KeenClient) -> None:
    found = module.get_collection(QUERIED)
    assert (found["name"], found["properties"]["number"], found["properties"]["string"]) == (QUERIED, "num", "string")


def test_get_all_collections(module: Any, client: KeenClient) -> None:
    assert module.get_collection(QUERIED) in module.get_all_collections()


# What is not offered: QueryTests, AccessKeyTests, SavedQueriesTests, CachedDatasetsTestCase, ScopedKeyTests.

KEY = "320104AEFFC569EEE60BCAC9BB064DFF9897E391AB8C59608AC0869AFD291B4E"
STEPS = [{"event_collection": "signed up", "actor_property": "visitor.guid", "timeframe": "today"}]
TOTAL = {"total": {"analysis_type": "sum", "target_property": "number"}}
SAVED = {"query_name": "saved-query-name"}
MULTI, FUNNEL = "'multi_analysis' is not offered", "'funnel' is not offered"
KEYS, QUERIES_SAVED, DATASETS = "access keys are not offered", "saved queries are not offered", "cached datasets are not offered"

ABSENT: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("test_multi_analysis", MULTI, lambda c: c.multi_analysis(QUERIED, analyses=TOTAL, timeframe="today", interval="hourly")),
    ("test_funnel", FUNNEL, lambda c: c.funnel(STEPS)),
    ("test_funnel_return_all_keys", FUNNEL, lambda c: c.funnel([1, 2], all_keys=True)),
    ("test_group_by", "does not offer group_by", lambda c: c.count(QUERIED, timeframe="today", group_by="number")),
    (
        "test_multi_group_by",
        "does not offer group_by",
        lambda c: c.count(QUERIED, timeframe="today", group_by=["number", "string"]),
    ),
    ("test_interval", "does not offer interval", lambda c: c.count(QUERIED, timeframe="this_2_days", interval="daily")),
    (
        "test_order_by",
        "does not offer group_by",
        lambda c: c.count(QUERIED, timeframe="today", group_by="number", order_by=ORDERED, limit=2),
    ),
    ("test_create_access_key", KEYS, lambda c: c.create_access_key("Bob_Key")),
    ("test_list_access_keys", KEYS, lambda c: c.list_access_keys()),
    ("test_get_access_key", KEYS, lambda c: c.get_access_key(KEY)),
    ("test_revoke_access_key", KEYS, lambda c: c.revoke_access_key(KEY)),
    ("test_unrevoke_access_key", KEYS, lambda c: c.unrevoke_access_key(KEY)),
    ("test_delete_access_key", KEYS, lambda c: c.delete_access_key(KEY)),
    ("test_update_access_key_full", KEYS, lambda c: c.update_access_key_full(KEY, "Jim_Key", False, ["queries"], {})),
    ("test_sanity_of_update_functions", KEYS, lambda c: c.update_access_key_name(KEY, name="Marzipan")),
    ("test_sanity_of_update_functions", KEYS, lambda c: c.add_access_key_permissions(KEY, ["writes"])),
    ("test_sanity_of_update_functions", KEYS, lambda c: c.remove_access_key_permissions(KEY, ["writes"])),
    ("test_sanity_of_update_functions", KEYS, lambda c: c.update_access_key_permissions(KEY, ["writes"])),
    ("test_sanity_of_update_functions", KEYS, lambda c: c.update_access_key_options(KEY, options={})),
    ("test_get_all_saved_queries", QUERIES_SAVED, lambda c: c.saved_queries.all()),
    ("test_get_one_saved_query", QUERIES_SAVED, lambda c: c.saved_queries.get("saved-query-name")),
    ("test_create_saved_query", QUERIES_SAVED, lambda c: c.saved_queries.create("saved-query-name", SAVED)),
    ("test_update_saved_query", QUERIES_SAVED, lambda c: c.saved_queries.update("saved-query-name", {"query": {}})),
    ("test_update_full_saved_query", QUERIES_SAVED, lambda c: c.saved_queries.update_full("saved-query-name", SAVED)),
    ("test_delete_saved_query", QUERIES_SAVED, lambda c: c.saved_queries.delete("saved-query-name")),
    ("test_saved_query_results", QUERIES_SAVED, lambda c: c.saved_queries.results("saved-query-name")),
    ("test_get_all", DATASETS, lambda c: c.cached_datasets.all()),
    ("test_get_one", DATASETS, lambda c: c.cached_datasets.get("DATASET_NAME_1")),
    ("test_create", DATASETS, lambda c: c.cached_datasets.create("NEW_DATASET", {}, "product.id", "My new dataset")),
    ("test_results", DATASETS, lambda c: c.cached_datasets.results("DATASET_ONE", "some_id", "this_2_hours")),
    (
        "test_results_absolute_timeframe",
        DATASETS,
        lambda c: c.cached_datasets.results("DATASET_ONE", "some_id", {"start": "2016-11-02T00:00:00.000Z"}),
    ),
    (
        "test_results_multiple_index_by",
        DATASETS,
        lambda c: c.cached_datasets.results("DATASET_ONE", {"index_by1": "a"}, "this_2_hours"),
    ),
    ("test_delete", DATASETS, lambda c: c.cached_datasets.delete("MY_DATASET_NAME")),
]


@pytest.mark.parametrize(("name", "words", "call"), ABSENT, ids=[name for name, _, _ in ABSENT])
def test_what_is_absent_says_so_in_a_word(client: KeenClient, name: str, words: str, call: Callable[[Any], Any]) -> None:
    before = client.get_all_collections()
    with pytest.raises(exceptions.KeenApiError, match=words):
        call(client)
    assert client.get_all_collections() == before


@pytest.mark.parametrize(("permitted", "call"), [("write", "add_event"), ("read", "count")])
def test_a_scoped_key_says_that_it_is_none_here(endpoint: Endpoint, client: KeenClient, permitted: str, call: str) -> None:
    """What upstream's tests have for keys: a right of the master key's, encrypted with it."""
    scoped = scoped_keys.encrypt(endpoint.master_key, {"allowed_operations": [permitted]})
    made = KeenClient(endpoint.project_id, write_key=scoped, read_key=scoped, base_url=endpoint.base_url)
    with pytest.raises(exceptions.KeenApiError, match=r"scoped keys(.|\n)*InvalidApiKeyError"):
        getattr(made, call)(QUERIED, *([{"a": 1}] if permitted == "write" else []))


LEFT_OUT = {
    "the client alone decides, and asks nobody": {
        "test_init",
        "test_new_client_instance",
        "test_set_keys_using_package_var",
        "test_order_by_invalid_limit",
        "test_order_by_invalid_direction",
        "test_order_by_no_group_by",
        "test_limit_no_order_by",
        "test_passing_invalid_custom_api_client",
        "test_get_all_saved_queries_keys",
        "test_get_one_saved_query_keys",
        "test_create_saved_query_master_key",
        "test_delete_saved_query_master_key",
        "test_get_all_raises_with_no_keys",
        "test_get_one_raises_with_no_keys",
        "test_create_raises_with_no_keys",
        "test_create_raises_with_read_key",
        "test_results_raises_with_no_keys",
        "test_delete_raises_with_no_keys",
    },
    "the client's encryption alone": {
        "test_scoped_key_encrypts_and_decrypts",
        "test_scoped_key_fails_decryption_bad_key",
        "test_old_scoped_key_encrypts_and_decrypts",
        "test_old_scoped_key_fails_decryption_on_bad_key",
    },
    "of Python 2": {"test_add_event_with_unicode"},
}
UPSTREAM_TESTS = 78
"""By name; one name is there twice."""


def test_every_test_of_upstream_is_here_or_left_out_for_a_reason() -> None:
    here = {name for name, value in globals().items() if name.startswith("test_") and inspect.isfunction(value)}
    ours = {"test_query", "test_what_is_absent_says_so_in_a_word", "test_a_scoped_key_says_that_it_is_none_here"}
    ours |= {name for name in here if name.startswith("test_every_")}
    ported = (here - ours) | {name for name, *_ in QUERIES} | {name for name, *_ in ABSENT}
    left_out = set().union(*LEFT_OUT.values())
    assert not ported & left_out
    assert len(ported | left_out) == UPSTREAM_TESTS


def test_every_call_of_the_client_is_made_here() -> None:
    """A later release of the client brings its new calls to our notice."""
    source = inspect.getsource(inspect.getmodule(count))  # type: ignore[arg-type]
    missing = []
    for owner, prefix in ((KeenClient, ""), (SavedQueriesInterface, "saved_queries"), (CachedDatasetsInterface, "cached_datasets")):
        names = [name for name, _ in inspect.getmembers(owner, inspect.isfunction) if not name.startswith("_")]
        missing += [f"{prefix}.{name}" for name in names if f"{prefix}.{name}(" not in source]
    assert missing == [".check_project_id", ".get_params"]  # those that make no request
