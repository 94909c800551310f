"""Events read from files, and `keen-pipeline load`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keen_pipeline.errors import InvalidInputError
from keen_pipeline.service.events.cells import MISSING, decode_field
from keen_pipeline.service.events.values import encode_value
from keen_pipeline.service.storage.event_files import read_event_batches
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


def test_batches_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text("\n".join('{"text": "%s"}' % ("x" * 80) for _ in range(100)) + '\n\n{"text": "%s"}\n' % ("y" * 5000))
    batches = list(read_event_batches(path, 1000))
    assert sum(map(len, batches)) == 101
    assert max(map(len, batches)) == 10
    assert len(batches[-1]) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ndjson", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.ndjson", b"[1]\n", "line 1 is not a JSON object"),
        ("a.ndjson", b"\xff\n", "line 1 is not UTF-8"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3 has 1 fields, the header 2"),
        ("a.csv", b'a,b\n1,"x\n', "line 2 is never closed"),
        ("a.csv", b'a,b\n1,x"y"\n', "line 2 has a stray quote in field 2"),
        ("a.csv", b"a,a\n1,2\n", "empty or a repeated name"),
        ("a.csv", b"a,a.b\n1,2\n", "line 2 has a property that is a value and an object at once"),
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


def load(http: Http, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    endpoint = http.endpoint
    env = clean_environment(KEEN_BASE_URL=endpoint.base_url, KEEN_PROJECT_ID=endpoint.project_id, KEEN_WRITE_KEY=endpoint.write_key)
    return subprocess.run(
        [sys.executable, "-m", "keen_pipeline", "load", *arguments], input=stdin, capture_output=True, env=env, timeout=60
    )


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
    assert b"event 2: event: must have at least one property" in done.stderr
    assert b"event 4: event: holds half of a surrogate pair" in done.stderr
    assert f"the service refused 2 events of {collection}".encode() in done.stderr
    assert http.query("select_unique", collection, target_property="n") == [1, 3]


def test_the_command_fails_in_one_clear_line(http: Http, collection: str, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_text('{"n": 1}\n')
    assert load(http, "_illegal", str(path)).returncode == 1
    assert load(http, collection).returncode == 2
    assert load(http, collection, str(tmp_path / "none.csv")).returncode == 2
    env = clean_environment(KEEN_BASE_URL=http.endpoint.base_url)
    command = [sys.executable, "-m", "keen_pipeline", "load", collection, str(path)]
    done = subprocess.run(command, capture_output=True, env=env, timeout=60)
    assert (done.returncode, b"KEEN_PROJECT_ID and KEEN_WRITE_KEY" in done.stderr) == (1, True)
    done = subprocess.run(
        command, capture_output=True, env=env | {"KEEN_PROJECT_ID": "x", "KEEN_WRITE_KEY": "sesame-word"}, timeout=60
    )
    assert done.returncode == 1
    assert b"sesame-word" not in done.stderr + done.stdout
