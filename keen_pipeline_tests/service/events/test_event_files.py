"""Events read from files, and `keen-pipeline load`."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from keen_pipeline.cli.local import event_files
from keen_pipeline.cli.local import load as load_command
from keen_pipeline.cli.local.event_files import BATCH_EVENTS, read_event_batches
from keen_pipeline.client import KeenClient
from keen_pipeline.collection import Encoding
from keen_pipeline.errors import ExtractionTooLargeError, InvalidInputError, RequestRejectedError, ServiceUnavailableError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.csv.stored import zstandard
from keen_pipeline.service.events.cells import MISSING, decode_field
from keen_pipeline.service.events.values import encode_value
from keen_pipeline.service.http.resources.events import MAX_EVENTS
from keen_pipeline_tests.landing.conftest import BytesSource
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
)


def read(path: Path) -> list[dict[str, Any]]:
    return [event for batch in read_event_batches(path) for event in batch]


@given(JSON)
def test_every_value_survives_its_text(value: Any) -> None:
    decoded = json.loads(encode_value(value))
    assert (repr(decoded), type(decoded)) == (repr(value), type(value))


def test_a_missing_value_is_an_empty_field() -> None:
    assert decode_field("", quoted=False) is MISSING
    assert decode_field("", quoted=True) == ""


def test_foreign_csv(tmp_path: Path) -> None:
    path = tmp_path / "foreign.csv"
    path.write_bytes(
        b'\xef\xbb\xbfname,"amount",user.email,zip,note\r\nAda,3.5,a@b.c,"0123","two\r\nlines"\r\n,,,,\r\nBob,x,,007,"say ""hi"""'
    )
    assert read(path) == [
        {"name": "Ada", "amount": 3.5, "user": {"email": "a@b.c"}, "zip": "0123", "note": "two\r\nlines"},
        {},
        {"name": "Bob", "amount": "x", "zip": "007", "note": 'say "hi"'},
    ]


def test_number_that_no_json_number_can_be_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"n\n" + b"9" * 5000 + b"\n")
    assert read(tmp_path / "a.csv") == [{"n": "9" * 5000}]
    digits = "12345678901234567890.123456789"
    duckdb.sql(f"COPY (SELECT {digits}::DECIMAL(38, 9) AS n, 5::DECIMAL(38, 9) AS m) TO '{tmp_path / 'a.parquet'}'")
    assert read(tmp_path / "a.parquet") == [{"n": digits, "m": 5}]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    user = """{'email': 'a@b.c', 'tags': ['x', NULL]} AS "user", NULL::INTEGER AS nothing, 1.50::DECIMAL(9, 2) AS amount"""
    times = """TIMESTAMP '2026-01-01 10:00:00' AS "keen.timestamp", DATE '2026-01-02' AS day, encode('é') AS raw"""
    duckdb.sql(f"COPY (SELECT 1 AS n, TRUE AS ok, {user}, {times}) TO '{path}'")
    assert read(path) == [
        {
            "n": 1,
            "user": {"email": "a@b.c", "tags": ["x", None]},
            "amount": 1.5,
            "keen": {"timestamp": "2026-01-01T10:00:00Z"},
            "ok": True,
            "day": "2026-01-02",
            "raw": "c3a9",
        }
    ]


def test_a_name_of_a_parquet_file_is_no_pattern_and_its_folder_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "date=2026-01-01"
    folder.mkdir()
    for name in ("events.parquet", "e*.parquet"):
        duckdb.sql(f"COPY (SELECT '{name}' AS name) TO '{folder / name}' (FORMAT parquet)")
    assert read(folder / "events.parquet") == [{"name": "events.parquet"}]
    assert read(folder / "e*.parquet") == [{"name": "e*.parquet"}]


def test_batches_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text("\n".join('{"text": "%s"}' % ("x" * 80) for _ in range(100)) + '\n\n{"text": "%s"}\n' % ("y" * 5000))
    batches = list(read_event_batches(path, 1000))
    assert sum(map(len, batches)) == 101
    assert max(map(len, batches)) == 10
    assert len(batches[-1]) == 1


def test_batches_have_no_more_events_than_a_service_takes(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"a":1}\n' * (BATCH_EVENTS + 1))
    assert [len(batch) for batch in read_event_batches(path)] == [BATCH_EVENTS, 1]
    assert BATCH_EVENTS <= MAX_EVENTS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ndjson", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.ndjson", b"[1]\n", "line 1 is not a JSON object"),
        ("a.ndjson", b"\xff\n", "line 1 is not UTF-8"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3 has 1 fields, the header 2"),
        ("a.csv", b'a,b\n1,"x\n', "line 2: record 1 begins a quoted field that never ends"),
        ("a.csv", b'a,b\r1,"x\ny"\r1,"x"y\r', "line 4: record 2 has text after a closing quote .at byte 12."),
        ("a.csv", b"a,b\n1,\xff\n", "line 2 is not UTF-8"),
        ("a.csv", b"id;name\n1;x\n", "separated by semicolons"),
        ("a.csv", b"id\tname\n1\tx\n", "separated by tabs.*convert the file first"),
        ("a.csv", b"id|name\n1|x\n", "separated by vertical bars"),
        ("a.csv", b'"id";"na""me"\r\n"1";"x"\r\n', "separated by semicolons"),
        ("a.csv", b'"id"\t"name"\n', "separated by tabs"),
        ("a.csv", b'"id"x,"name"\n', "line 1: the header has text after a closing quote"),
        ("a.csv", b'a,b\r1,"x\ry"\r"x\r\ny",2,3\r', "line 4 has 3 fields"),
        ("a.csv", b"id,name\r\n", "holds no events, though it is not empty"),
        ("a.ndjson", b"\r\n \n", "holds no events, though it is not empty"),
        ("a.ndjson", b'{"a": 1}\r{"a": 2}\r{"a": NaN}\r', "line 3 has a number that JSON doesn't have"),
        ("a.ndjson", b'{"a": 1}\n{"a": [1e400]}\n', "line 2 has a number that JSON doesn't have"),
        ("a.ndjson.gz", b"not gzip", "can't be read any further"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9, mtime=0)[:-12], "can't be read any further"),
        ("a.csv.zst", b"not zstd", "can't be read any further"),
        ("a.csv.zst", zstandard().compress(b"a,b\n" + b"1,2\n" * 9)[:-3], "can't be read any further"),
        ("a.parquet.zst", zstandard().compress(b"no"), "not readable as Parquet"),
        ("a.csv", b"a,a\n1,2\n", "empty or a repeated name"),
        ("a.csv", b"a,a.b\n1,2\n", "line 2 has a property that is a value and an object at once"),
        ("a.csv", b".".join([b"a"] * 3000) + b"\n1\n", "line 2 has objects within each other"),
        ("a.parquet", b"no", "not readable as Parquet"),
        ("a.txt", b"", "events are read from"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=words) as caught:
        read(path)
    assert name in str(caught.value)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_any_way(tmp_path: Path, ending: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_bytes(ending.join([b"id,text,s", b'1,"a\r\nb",5" pipe', b'2,"",x']))
    (tmp_path / "a.ndjson").write_bytes(ending.join([b'\xef\xbb\xbf{"id": 1}', b"", b'{"id": 2, "s": "\\r"}', b""]))
    for piece in (1, 7, 1 << 18):
        monkeypatch.setattr(event_files, "_PIECE", piece)
        assert read(tmp_path / "a.csv") == [{"id": 1, "text": "a\r\nb", "s": '5" pipe'}, {"id": 2, "text": "", "s": "x"}]
        assert read(tmp_path / "a.ndjson") == [{"id": 1}, {"id": 2, "s": "\r"}]


def test_a_column_whose_name_has_a_semicolon_is_one_in_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'"a;b"\n1\n')
    assert read(tmp_path / "a.csv") == [{"a;b": 1}]


def test_events_before_a_bad_line_are_given_out(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": NaN}\n{"a": 3}\n')
    batches = read_event_batches(tmp_path / "a.ndjson")
    assert next(batches) == [{"a": 1}, {"a": 2}]
    with pytest.raises(InvalidInputError, match="line 3"):
        next(batches)


def test_a_nan_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    duckdb.sql(f"COPY (SELECT unnest([1.5, 'nan'::DOUBLE]) AS n) TO '{tmp_path}/a.parquet'")
    batches = read_event_batches(tmp_path / "a.parquet")
    assert next(batches) == [{"n": 1.5}]
    with pytest.raises(InvalidInputError, match="row 2 has a number that JSON doesn't have"):
        next(batches)


@pytest.mark.parametrize("name", ["none.ndjson", "none.csv", "none.ndjson.gz"])
def test_an_empty_file_has_no_events(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    assert read(tmp_path / name) == []


_instants = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda t: t.isoformat(timespec="milliseconds") + "Z")
# But for texts that read as a list or an object, which are taken for one.
_words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"'), max_size=6).filter(
    lambda t: t[:1] not in ("[", "{")
)
_words |= st.sampled_from(["null", "{", "42", "[NaN]", "true", 'say "x"'])
_numbers = st.integers(-(2**80), 2**80) | st.sampled_from([5, -0.0, 2**53 + 1]) | st.floats(allow_nan=False, allow_infinity=False)
_nested = st.lists(st.none() | st.booleans() | _numbers | _words, min_size=1, max_size=3) | st.just({})
_VALUES = {"num": _numbers, "bool": st.booleans(), "datetime": _instants, "string": _words, "array": _nested}
NAMES = {"userId": "num", "UserId": "string", "ok": "bool", "at": "datetime", "tags": "array", 'a,"b': "string", "n": "num"}


@settings(max_examples=60)
@given(st.lists(st.fixed_dictionaries({}, optional={name: _VALUES[kind] for name, kind in NAMES.items()}).filter(bool), min_size=1))
def test_what_was_landed_comes_back_without_loss_from_every_encoding(events: list[dict[str, Any]]) -> None:
    data = "".join(
        ",".join(row) + "\r\n"
        for row in [
            [field(f"body:{name}") for name in NAMES],
            *([field(event[name]) if name in event else "" for name in NAMES] for event in events),
        ]
    ).encode()
    types = {f"body:{name}": kind for name, kind in NAMES.items()}
    with tempfile.TemporaryDirectory() as folder:
        place = FileDestination(folder)
        for encoding in Encoding:
            target = place.target_uri("purchases", "2026-01-01", encoding)
            place.land(BytesSource(data), target, extraction_id="e1", types=types)
            assert [typed(event) for event in read(Path(target))] == [typed(event) for event in events], encoding


def field(value: Any) -> str:
    """A value as a CSV has it: text in quotes, all else as its JSON, in quotes where that needs them."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    quoted = isinstance(value, str) or set(text) & set(',"')
    return '"' + text.replace('"', '""') + '"' if quoted else text


def typed(value: Any) -> Any:
    """A value that tells true from 1, and 5.0 not from 5, which are one number in JSON."""
    if isinstance(value, dict):
        return {name: typed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return (
        (isinstance(value, bool), math.copysign(1, value) if value == 0 else 0, value) if isinstance(value, (int, float)) else value
    )


def load(http: Http, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    endpoint = http.endpoint
    env = clean_environment(KEEN_BASE_URL=endpoint.base_url, KEEN_PROJECT_ID=endpoint.project_id, KEEN_WRITE_KEY=endpoint.write_key)
    return subprocess.run(
        [sys.executable, "-m", "keen_pipeline", "load", *arguments], input=stdin, capture_output=True, env=env, timeout=60
    )


@pytest.mark.parametrize(("retry_after", "posted"), [(7.0, 3), (None, 1)])
def test_only_a_batch_that_the_service_wants_later_is_posted_again(
    monkeypatch: pytest.MonkeyPatch, retry_after: float | None, posted: int
) -> None:
    client, slept = Mock(spec=KeenClient), []
    busy = ServiceUnavailableError("the answer got lost" if retry_after is None else "later", retry_after=retry_after)
    client.add_events.side_effect = [busy, busy, {"purchases": [None, "refused"]}]
    monkeypatch.setattr(load_command.time, "sleep", slept.append)
    with nullcontext() if retry_after else pytest.raises(ServiceUnavailableError, match="these 2 events are stored is unknown"):
        assert list(load_command._post(client, "purchases", [{"n": 1}, {}])) == [None, "refused"]
    assert (client.add_events.call_count, slept) == (posted, [7.0] * (posted - 1))


def test_a_batch_that_a_proxy_finds_too_large_is_posted_in_halves() -> None:
    client, stored = Mock(spec=KeenClient), list[Any]()

    def add_events(events: dict[str, list[Any]]) -> dict[str, list[str | None]]:
        if len(json.dumps(events)) > 1000:  # as nginx does past a megabyte, unless it is told otherwise
            raise ExtractionTooLargeError("too large (HTTP 413)")
        stored.extend(events["purchases"])
        return {"purchases": ["refused" if event["n"] == 7 else None for event in events["purchases"]]}

    client.add_events = add_events
    batch = [{"n": n, "text": "x" * 80} for n in range(50)]
    assert list(load_command._post(client, "purchases", batch)) == [None] * 7 + ["refused"] + [None] * 42
    assert stored == batch
    with pytest.raises(RequestRejectedError, match="larger than the service, or a proxy before it, takes"):
        list(load_command._post(client, "purchases", [{"n": 1, "text": "x" * 1000}]))


def test_the_command_loads_files_and_standard_input(http: Http, collection: str, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(2500)))
    done = load(http, collection, str(path), "-", stdin=b'{"n": "stdin"}\n')
    assert done.returncode == 0, done.stderr
    assert http.query("count", collection) == 2501
    assert http.query("maximum", collection, target_property="n") == 2499


def test_the_command_reports_refused_events_and_keeps_the_others(http: Http, collection: str, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"n": 1}\n{}\n{"n": 3}\n{"s": "\\ud800"}\n')
    done = load(http, collection, str(path))
    assert done.returncode == 1
    assert b"event 2: InvalidPropertyValueError: event: must have at least one property" in done.stderr
    assert b"event 4: InvalidPropertyValueError: event: holds half of a surrogate pair" in done.stderr
    assert f"the service refused 2 events of {collection}".encode() in done.stderr
    assert http.query("select_unique", collection, target_property="n") == [1, 3]


def test_the_command_stops_at_a_bad_line_and_says_what_is_stored(http: Http, collection: str, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson.gz"
    path.write_bytes(gzip.compress(b'{"n": 1}\n{"n": 2}\n{"n": NaN}\n{"n": 4}\n'))
    done = load(http, collection, str(path))
    assert done.returncode == 1
    assert f"{path}: stopped; the 2 events before were sent to {collection}".encode() in done.stderr
    assert f"{path}: line 3 has a number that JSON doesn't have".encode() in done.stderr
    assert http.query("select_unique", collection, target_property="n") == [1, 2]


def test_ctrl_c_tells_how_many_events_were_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, client = tmp_path / "events.ndjson", Mock(spec=KeenClient)
    path.write_text('{"n": 1}\n' * 5)
    monkeypatch.setattr(load_command, "read_event_batches", lambda name: event_files.read_event_batches(name, 30))
    monkeypatch.setattr(load_command, "service_for_command", nullcontext)
    monkeypatch.setattr(load_command, "open_client", lambda settings: nullcontext(client))
    client.add_events.side_effect = [{"c": [None] * 3}, KeyboardInterrupt]
    done = CliRunner().invoke(load_command.command, ["c", str(path)])
    assert f"{path}: stopped; the 3 events before were sent to c, perhaps those of the request under way too" in done.output


def test_a_file_without_events_never_ends_well_and_stops_no_other(http: Http, collection: str, tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_bytes(b"header:timestamp\r\n")
    (tmp_path / "none.ndjson").write_bytes(b"")
    (tmp_path / "one.ndjson").write_bytes(b'{"n": 1}')
    done = load(http, collection, *(str(tmp_path / name) for name in ("day.csv", "none.ndjson", "one.ndjson")))
    assert (done.returncode, b"no events, though not empty: " + str(tmp_path / "day.csv").encode() in done.stderr) == (1, True)
    assert http.query("count", collection) == 1
    assert load(http, collection, str(tmp_path / "none.ndjson")).returncode == 0
    assert load(http, collection, "-", stdin=b"\n\n").returncode == 1


def test_the_command_fails_in_one_clear_line(http: Http, collection: str, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"n": 1}\n')
    assert load(http, "_illegal", str(path)).returncode == 2
    assert load(http, collection).returncode == 2
    assert load(http, collection, str(tmp_path / "none.csv")).returncode == 2
    env = clean_environment(KEEN_BASE_URL=http.endpoint.base_url)
    command = [sys.executable, "-m", "keen_pipeline", "load", collection, str(path)]
    done = subprocess.run(command, capture_output=True, env=env, timeout=60)
    assert (done.returncode, b"KEEN_PROJECT_ID is not set" in done.stderr) == (1, True)
    done = subprocess.run(command, capture_output=True, env=env | {"KEEN_PROJECT_ID": "x"}, timeout=60)
    assert (done.returncode, b"KEEN_WRITE_KEY is not set" in done.stderr) == (1, True)
    done = subprocess.run(
        command, capture_output=True, env=env | {"KEEN_PROJECT_ID": "x", "KEEN_WRITE_KEY": "sesame-word"}, timeout=60
    )
    assert done.returncode == 1
    assert b"sesame-word" not in done.stderr + done.stdout
