"""The CSV and `_count` against a naive evaluation in Python, event by event; and the CSV loaded back."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from keen_pipeline.cli.local.event_files import read_event_batches
from keen_pipeline_tests.service import naive
from keen_pipeline_tests.service.http_client import Http

NAMES = ("a", "b", "A", "a.b", "user.email", "user.name", "x,y", 'q"q')
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_tricky = st.sampled_from(
    [
        "",
        " ",
        "1",
        "-1",
        "1.5",
        "1e5",
        "true",
        "null",
        "NaN",
        "Infinity",
        "[1]",
        "[1,2]",
        "[1,]",
        "[NaN]",
        '{"a":1}',
        '{"a":1,}',
        "{}",
        '"x"',
        '"',
        "[",
        "a,b",
        "a\nb",
        "a\r\n",
        "\r",
        "\0",
        "é",
        "🙂",
        "-",
        "0x1",
        "1_0",
        "+1",
        ".5",
        "\t",
        "x ",
    ]
)
_number = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0.0, -0.0, 1.0, 1e16, 2**53, 2**53 + 1, float(2**53), 10**30, 1e30, 2**127, 2**127 + 1]),
)
_scalar = st.one_of(_text, _tricky, _number, st.booleans(), st.none())
_leaf = st.one_of(_scalar, st.lists(_scalar, max_size=3), st.builds(dict), st.lists(st.floats(-90, 90), min_size=2, max_size=2))
_moment = st.sampled_from(
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T12:30:00.123Z",
        "2026-01-02T00:00:00Z",
        "2026-01-01T23:59:59.999999Z",
        "2026-01-02T05:00:00+02:00",
    ]
)


@st.composite
def events(draw: Any) -> dict[str, Any]:
    event: dict[str, Any] = {"keen": {"timestamp": draw(_moment)}}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5)):
        keys = name.split(".") if name != "x,y" else [name]
        place = event
        for key in keys[:-1]:
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        place[keys[-1]] = draw(_leaf)
    return event


@st.composite
def conditions(draw: Any, depth: int = 0) -> dict[str, Any]:
    operator = draw(
        st.sampled_from(
            [
                "eq",
                "ne",
                "lt",
                "gt",
                "lte",
                "gte",
                "exists",
                "in",
                "contains",
                "not_contains",
                "regex",
                "within",
                *(["or"] if depth < 2 else []),
            ]
        )
    )
    if operator == "or":
        return {"operator": "or", "operands": draw(st.lists(conditions(depth + 1), min_size=1, max_size=3))}
    values = {
        "exists": st.booleans(),
        "in": st.lists(_scalar, max_size=4),
        "lt": st.one_of(_text, _tricky, _number),
        "gt": st.one_of(_text, _tricky, _number),
        "lte": _number,
        "gte": _number,
        "contains": st.one_of(_text, _tricky),
        "not_contains": st.one_of(_text, _tricky),
        "regex": st.sampled_from(["a", "^1", "[0-9]", "", "[xyz]", "é"]),
        "within": st.fixed_dictionaries(
            {"coordinates": st.tuples(st.floats(-90, 90), st.floats(-90, 90)).map(list), "max_distance_miles": st.floats(0, 9000)}
        ),
    }
    return {
        "property_name": draw(st.sampled_from(NAMES)),
        "operator": operator,
        "property_value": draw(values.get(operator, _scalar)),
    }


_timeframes = st.one_of(
    st.none(),
    st.sampled_from(
        [
            {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
            {"start": "2026-01-01T12:30:00.123Z", "end": "2026-01-01T23:59:59.999999Z"},
            {"start": "2026-01-01T02:00:00+02:00", "end": "2026-01-02T00:00:00.000001Z"},
        ]
    ),
)
_counter = iter(range(10**9))


def leaves(event: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in event.items():
        if isinstance(value, dict) and value:
            flat |= leaves(value, f"{prefix}{key}:")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def comparable(event: dict[str, Any]) -> str:
    """An event without what the service adds, as text that tells 1 from 1.0 and true from 1."""
    body = {k: v for k, v in event.items() if k != "keen"}
    return json.dumps([naive.instant(event["keen"]["timestamp"]).isoformat(), body], sort_keys=True)


def as_loaded(value: Any) -> Any:
    """What a CSV file cannot tell: a string from the list or the object that it reads as, where either is in quotes."""
    if isinstance(value, dict):
        return {key: as_loaded(item) for key, item in value.items()}
    if isinstance(value, str) and value[:1] in ("[", "{") and any(c in value for c in ',"\r\n'):
        try:
            return json.loads(value, parse_constant=lambda word: int(word))  # NaN is no JSON
        except ValueError:
            return value
    return value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(events(), min_size=1, max_size=8), filters=st.lists(conditions(), max_size=2), timeframe=_timeframes)
def test_csv_and_count_equal_a_naive_evaluation(
    http: Http, tmp_path: Path, batch: list[dict[str, Any]], filters: list[dict[str, Any]], timeframe: dict[str, str] | None
) -> None:
    name = f"naive-{next(_counter)}"
    http.add(name, *batch)
    expected = [e for e in batch if naive.in_timeframe(e, timeframe) and all(naive.passes(e, f) for f in filters)]
    asked = {"filters": filters, **({"timeframe": timeframe} if timeframe else {})}

    assert http.json("GET", f"{http.v2}/{name}/_count", params=asked, key="read_key") == {"result": len(expected)}
    assert http.query("count", name, **asked) == len(expected)

    content = http.csv(name, **asked)
    path = tmp_path / "extracted.csv"
    path.write_bytes(content)
    # A file of a header alone is refused, as it may be one that was cut.
    loaded = [event for part in read_event_batches(path) for event in part] if expected else []
    assert [comparable(e) for e in loaded] == [comparable(as_loaded(e)) for e in expected]

    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    names = {f"body:{n}" for e in expected for n in leaves({k: v for k, v in e.items() if k != "keen"})}
    assert rows[0][0] == "header:timestamp"
    assert set(rows[0][1:]) == names
    assert len(rows) == len(expected) + 1

    events = http.query("extraction", name, **asked)
    assert [comparable(e) for e in events] == [comparable(e) for e in expected]


_relative = st.builds(
    "{}_{}_{}s".format,
    st.sampled_from(["this", "previous"]),
    st.integers(1, 20),
    st.sampled_from(["hour", "day", "week", "month", "year"]),
)
_zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(timeframe=_relative, zone=_zones, offsets=st.lists(st.integers(-40_000, 40_000), max_size=5))
def test_relative_timeframes_in_any_zone_equal_a_naive_evaluation(
    http: Http, timeframe: str, zone: str, offsets: list[int]
) -> None:
    name = f"naive-{next(_counter)}"
    now = datetime.now(timezone.utc)
    window = naive.relative_window(timeframe, zone, now)
    moments = [edge + timedelta(milliseconds=shift) for edge in window for shift in (-1, 0, 1)]
    moments += [window[0] + timedelta(minutes=shift) for shift in offsets]
    moments = [moment for moment in moments if moment < now - timedelta(minutes=1)]
    http.add(name, {"n": 0, "keen": {"timestamp": "1970-01-01T00:00:00Z"}})
    http.add(name, *[{"n": 1, "keen": {"timestamp": moment.isoformat()}} for moment in moments])

    counted = http.query("count", name, timeframe=timeframe, timezone=zone)
    events = http.query("extraction", name, timeframe=timeframe, timezone=zone)
    assume(naive.relative_window(timeframe, zone, datetime.now(timezone.utc))[0] == window[0])  # no unit ended meanwhile

    expected = sorted(moment for moment in moments if window[0] <= moment < window[1])
    assert counted == len(expected)
    assert sorted(naive.instant(event["keen"]["timestamp"]) for event in events) == [
        moment.replace(microsecond=moment.microsecond // 1000 * 1000) for moment in expected
    ]


def test_fields_are_written_in_the_documented_form(http: Http, collection: str) -> None:
    http.add(
        collection,
        {
            "keen": {"timestamp": "2026-01-31T08:00:00Z"},
            "amount": 3.5,
            "n": 42,
            "ok": True,
            "nothing": None,
            "who": "Ada",
            "list": [1, "a"],
        },
        {
            "keen": {"timestamp": "2026-01-31T09:00:00.000001+01:00"},
            "who": 'x,"y"\nz',
            "n": "42",
            "late": {"deep": {}},
            "nothing": "",
        },
    )
    assert http.csv(collection).decode() == (
        "header:timestamp,body:amount,body:late:deep,body:list,body:n,body:nothing,body:ok,body:who\n"
        '2026-01-31T08:00:00.000Z,3.5,,"[1,""a""]",42,null,true,"Ada"\n'
        '2026-01-31T08:00:00.000001Z,,{},,"42","",,"x,""y""\nz"\n'
    )


def test_no_events_give_a_header_alone(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    window = {"start": "2020-01-01", "end": "2020-01-02"}
    assert http.csv(collection, timeframe=window) == b"header:timestamp\n"


def test_the_newest_events_and_properties_asked_for_twice_have_the_columns_they_have(http: Http, collection: str) -> None:
    for day in (1, 2):
        http.add(collection, {"keen": {"timestamp": f"2026-01-0{day}"}, f"only{day}": day, "a": {"b": day}})
    asked = {"event_collection": collection, "content_type": "text/csv", "latest": 1}
    header, *rows = http.request("POST", f"{http.v3}/queries/extraction", body=asked).data.decode().splitlines()
    assert (header, len(rows)) == ("keen.timestamp,a.b,keen.created_at,keen.id,only2", 1)
    asked["property_names"] = ["a.b", "only2", "body:a:b"]
    assert http.request("POST", f"{http.v3}/queries/extraction", body=asked).data == b"a.b,only2\n2,2\n"


def test_an_event_without_the_only_property_that_is_asked_for_is_a_record(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1}, {"b": 1}, {"a": "x"})
    asked = {"event_collection": collection, "content_type": "text/csv", "property_names": ["a"]}
    assert http.request("POST", f"{http.v3}/queries/extraction", body=asked).data == b'a\n1\n""\n"x"\n'
    asked["property_names"] = ["a", "b"]
    assert http.request("POST", f"{http.v3}/queries/extraction", body=asked).data == b'a,b\n1,\n,1\n"x",\n'


def test_of_events_of_one_instant_the_last_arrived_are_the_newest(http: Http, collection: str) -> None:
    """Many of them, so that a choice by chance would show; each has a property of its own, which the file has to have."""
    instant = {"keen": {"timestamp": "2026-01-01T00:00:00.000Z"}}
    for start in range(0, 900, 300):
        http.add(
            collection, *({**instant, "n": n, f"p{n}": 1} if n >= 890 else {**instant, "n": n} for n in range(start, start + 300))
        )
    asked: dict[str, Any] = {"event_collection": collection, "latest": 3}
    for _ in range(3):
        found = http.request("POST", f"{http.v3}/queries/extraction", body=asked).json()["result"]
        assert [event["n"] for event in found] == [899, 898, 897]
        text = http.request("POST", f"{http.v3}/queries/extraction", body={**asked, "content_type": "text/csv"}).data.decode()
        assert text.splitlines()[0] == "keen.timestamp,keen.created_at,keen.id,n,p897,p898,p899"


def test_an_extracted_file_loaded_into_another_collection_extracts_to_the_same_bytes(
    http: Http, collection: str, tmp_path: Path
) -> None:
    http.add(
        collection,
        *[
            {"keen": {"timestamp": f"2026-01-0{i}T00:00:00Z"}, "a.b": i, "a": {"b": str(i), "c:d": [i]}, "é\\": None}
            for i in range(1, 9)
        ],
    )
    first = http.csv(collection)
    path = tmp_path / "first.csv"
    path.write_bytes(first)
    for batch in read_event_batches(path, 300):
        http.add(f"{collection}-again", *batch)
    assert http.csv(f"{collection}-again") == first
    v3 = http.request(
        "GET", f"{http.v3}/queries/extraction", params={"event_collection": collection, "content_type": "text/csv"}
    ).data
    path.write_bytes(v3)
    for batch in read_event_batches(path):
        http.add(f"{collection}-v3", *batch)
    again = http.request(
        "GET", f"{http.v3}/queries/extraction", params={"event_collection": f"{collection}-v3", "content_type": "text/csv"}
    )
    assert again.data == v3


@pytest.mark.parametrize("batches", [1, 30])
def test_events_stand_in_order_of_arrival_across_segments(http: Http, collection: str, batches: int) -> None:
    for number in range(batches):
        http.add(collection, {"n": number})
        assert http.query("count", collection) == number + 1  # each read folds the log into a segment
    rows = list(csv.DictReader(io.StringIO(http.csv(collection).decode())))
    assert [int(row["body:n"]) for row in rows] == list(range(batches))
