"""Keen's own Python client, 0.7.0, against the service; every answer checked against plain Python over the same events."""

from __future__ import annotations

import math
import statistics
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from keen.client import KeenClient
from keen.exceptions import KeenApiError

from keen_pipeline.service.embedded import Endpoint
from keen_pipeline_tests.service.cluster import Turning

NOW = datetime.now(timezone.utc)
EVENTS: list[dict[str, Any]] = [
    {
        "amount": round(3.5 * n, 2) if n % 5 else None,
        "quantity": n % 7,
        "buyer": {"email": f"user{n % 9}@example.com", "vip": n % 4 == 0},
        "tags": ["a", "b"] if n % 2 else [],
        "keen": {"timestamp": (NOW - timedelta(hours=6 * n)).isoformat()},
    }
    for n in range(60)
]


def official(endpoint: Endpoint) -> KeenClient:
    return KeenClient(
        project_id=endpoint.project_id,
        read_key=endpoint.read_key,
        write_key=endpoint.write_key,
        master_key=endpoint.master_key,
        base_url=endpoint.base_url,
    )


@pytest.fixture(params=["one process", "two on shared storage"])
def keen(request: pytest.FixtureRequest) -> KeenClient | Turning:
    if request.param == "one process":
        return official(request.getfixturevalue("endpoint"))
    return Turning([official(endpoint) for endpoint in request.getfixturevalue("shared_endpoints")])


@pytest.fixture
def loaded(keen: KeenClient, collection: str) -> str:
    return load(keen, collection)


def load(keen: KeenClient, collection: str) -> str:
    keen.add_event(collection, {k: v for k, v in EVENTS[0].items() if k != "keen"}, timestamp=NOW)
    outcome = keen.add_events({collection: EVENTS[1:]})
    assert outcome == {collection: [{"success": True}] * (len(EVENTS) - 1)}
    return collection


def moment(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["keen"]["timestamp"].replace("Z", "+00:00"))


def test_figures(keen: KeenClient, loaded: str) -> None:
    amounts = [e["amount"] for e in EVENTS if e["amount"] is not None]
    assert keen.count(loaded) == len(EVENTS)
    assert keen.sum(loaded, "amount") == pytest.approx(math.fsum(amounts))
    assert keen.minimum(loaded, "amount") == min(amounts)
    assert keen.maximum(loaded, "amount") == max(amounts)
    assert keen.average(loaded, "amount") == pytest.approx(statistics.mean(amounts))
    assert keen.median(loaded, "amount") == statistics.median_low(amounts)
    share = statistics.quantiles(amounts, n=100, method="inclusive")[89]
    assert keen.percentile(loaded, "amount", 90) == pytest.approx(share)
    assert keen.count_unique(loaded, "buyer.email") == 9
    assert sorted(keen.select_unique(loaded, "buyer.email")) == sorted({e["buyer"]["email"] for e in EVENTS})
    assert sorted(keen.select_unique(loaded, "quantity")) == list(range(7))


def test_filters_and_timeframes(keen: KeenClient, loaded: str) -> None:
    filters = [{"property_name": "buyer.vip", "operator": "eq", "property_value": True}]
    window = {"start": (NOW - timedelta(days=5)).isoformat(), "end": (NOW - timedelta(days=1)).isoformat()}
    expected = [e for e in EVENTS if e["buyer"]["vip"] and NOW - timedelta(days=5) <= moment(e) < NOW - timedelta(days=1)]
    assert keen.count(loaded, timeframe=window, filters=filters) == len(expected)
    zone = timezone(timedelta(seconds=-28800))
    midnight = NOW.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [e for e in EVENTS if midnight - timedelta(days=3) <= moment(e) < midnight]
    assert keen.count(loaded, timeframe="previous_3_days", timezone=-28800) == len(days)
    found = keen.extraction(loaded, timeframe="previous_3_days", timezone=-28800, filters=filters)
    assert len(found) == len([e for e in days if e["buyer"]["vip"]])


def test_extraction(keen: KeenClient, loaded: str) -> None:
    found = keen.extraction(loaded)
    by_time = {moment(e): {k: v for k, v in e.items() if k != "keen"} for e in EVENTS}
    assert {moment(e): {k: v for k, v in e.items() if k != "keen"} for e in found} == by_time
    assert all({"timestamp", "created_at", "id"} == set(e["keen"]) for e in found)
    newest = keen.extraction(loaded, latest=3)
    assert [moment(e) for e in newest] == sorted(by_time, reverse=True)[:3]
    part = keen.extraction(loaded, property_names=["buyer.email", "quantity"], latest=1)
    assert part == [{"buyer": {"email": "user0@example.com"}, "quantity": 0}]
    assert keen.extraction(loaded, email="nobody@example.com").startswith("Processing")


def test_schemas(keen: KeenClient, loaded: str) -> None:
    schema = keen.get_collection(loaded)
    assert schema["name"] == loaded
    assert schema["properties"] == {
        "amount": "num",
        "buyer.email": "string",
        "buyer.vip": "bool",
        "keen.created_at": "datetime",
        "keen.id": "string",
        "keen.timestamp": "datetime",
        "quantity": "num",
        "tags": "array",
    }
    assert loaded in [c["name"] for c in keen.get_all_collections()]


def test_delete(keen: KeenClient, loaded: str) -> None:
    keen.delete_events(loaded, filters=[{"property_name": "quantity", "operator": "gte", "property_value": 5}])
    assert keen.count(loaded) == len([e for e in EVENTS if e["quantity"] < 5])
    window = {"start": (NOW - timedelta(days=5)).isoformat(), "end": (NOW + timedelta(days=1)).isoformat()}
    keen.delete_events(loaded, timeframe=window)
    assert keen.count(loaded) == len([e for e in EVENTS if e["quantity"] < 5 and moment(e) < NOW - timedelta(days=5)])
    keen.delete_events(loaded)
    assert keen.count(loaded) == 0
    assert keen.extraction(loaded) == []


def test_the_client_understands_our_errors(keen: KeenClient, loaded: str) -> None:
    with pytest.raises(KeenApiError, match="InvalidParameterError"):
        keen.count(loaded, timeframe="next_3_days")
    api = keen.api
    wrong = KeenClient(project_id=api.project_id, read_key=api.write_key, base_url=api.base_url)
    with pytest.raises(KeenApiError, match="InvalidApiKeyError"):
        wrong.count(loaded)
    with pytest.raises(KeenApiError, match="ResourceNotFoundError"):
        keen.count("no-such-collection")


CHECKS = (
    test_figures,
    test_filters_and_timeframes,
    test_extraction,
    test_schemas,
    test_delete,
    test_the_client_understands_our_errors,
)
