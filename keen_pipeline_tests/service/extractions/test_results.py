"""Results behind signed URLs: whole, in ranges, compressed, expiring; kept for a while; at any URI."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from functools import partial
from pathlib import Path

import pytest

from keen_pipeline.service import embedded
from keen_pipeline_tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, running_s3
from keen_pipeline_tests.service.cluster import TurningHttp
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http


@pytest.fixture(params=["folder", "uri", "shared"])
def served(request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> object:
    if request.param == "shared":
        yield TurningHttp(request.getfixturevalue("shared_endpoints"))
        return
    options = ["--results-uri", f"file://{tmp_path}/kept"] if request.param == "uri" else []
    (tmp_path / "kept").mkdir()
    with embedded.start(data, env=clean_environment(), options=options) as service:
        yield Http(service.endpoint)


def test_whole_ranges_head_etag_and_gzip(served: Http) -> None:
    served.add("purchases", *[{"n": n, "text": "x" * 50} for n in range(1000)])
    url = served.extract("purchases")
    assert url.startswith(served.endpoint.base_url)
    whole = served.request("GET", url, key=None)
    body = whole.data
    assert int(whole.headers["Content-Length"]) == len(body) > 60_000
    assert body.count(b"\n") == 1001
    assert whole.headers["Content-Type"].startswith("text/csv")

    head = served.request("HEAD", url, key=None)
    assert (head.status, head.data, head.headers["Content-Length"]) == (200, b"", str(len(body)))

    etag = whole.headers["ETag"]
    for spec, start, end in (
        ("0-9", 0, 10),
        ("100-", 100, len(body)),
        ("-7", len(body) - 7, len(body)),
        ("5-999999", 5, len(body)),
        ("-999999", 0, len(body)),
    ):
        part = served.request("GET", url, key=None, Range=f"bytes={spec}", If_Range=etag)
        assert (part.status, part.data) == (206, body[start:end])
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(body)}"
        assert int(part.headers["Content-Length"]) == end - start
    part = served.request("GET", url, key=None, Range="bytes=5-", Accept_Encoding="gzip")
    assert (part.status, part.data, part.headers.get("Content-Encoding")) == (206, body[5:], None)
    assert served.request("GET", url, key=None, Range="bytes=5-", If_Range='"another"').status == 200
    assert served.request("GET", url, key=None, Range=f"bytes={len(body)}-").status == 416
    for spec in ("items=1-2", "bytes=-", "bytes=5-3", "bytes=0-1,4-5"):
        whole = served.request("GET", url, key=None, Range=spec)
        assert (whole.status, whole.data) == (200, body)
    for tag, status in ((etag, 304), (f'"x", W/{etag}', 304), ("*", 304), ('"x"', 200)):
        assert served.request("GET", url, key=None, If_None_Match=tag).status == status

    packed = served.pool.request("GET", url, headers={"Accept-Encoding": "gzip"}, decode_content=False)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == body
    assert len(packed.data) < len(body) / 4
    assert packed.headers["ETag"] != etag
    assert "Content-Encoding" not in served.request("GET", url, key=None, Accept_Encoding="gzip;q=0, identity").headers


def test_the_same_extraction_is_the_same_bytes_every_time(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1}, {"b": 2})
    url = http.extract(collection)
    assert http.request("GET", url, key=None).data == http.request("GET", url, key=None).data == http.csv(collection)


def test_a_changed_url_opens_nothing(http: Http, collection: str) -> None:
    http.add(collection, {"a": 1})
    url, other = http.extract(collection), http.extract(collection)
    ids = [re.search(r"/results/(\w+)\.csv", u).group(1) for u in (url, other)]  # type: ignore[union-attr]
    expires = int(re.search(r"expires=(\d+)", url).group(1))  # type: ignore[union-attr]
    wrong = [url.replace(*ids), url.replace(f"expires={expires}", f"expires={expires + 1}"), url[:-1], url.split("?")[0], url + "é"]
    wrong += [url.replace("signature=", "signature=0"), url.replace(ids[0], "..%2f..%2fcredentials")]
    for one in wrong:
        answer = http.request("GET", one, key=None)
        assert answer.status in (401, 404)
        assert "error_code" in json.loads(answer.data)


def test_a_url_expires_and_a_fresh_one_works(data: Path) -> None:
    with embedded.start(data, env=clean_environment(), options=["--results-url-seconds", "1"]) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        url = http.extract("purchases")
        deadline = time.monotonic() + 60
        while (answer := http.request("GET", url, key=None)).status == 200:
            assert time.monotonic() < deadline, "the URL never expired"
            time.sleep(0.1)
        assert answer.status == 403
        assert json.loads(answer.data)["error_code"] == "ResultsExpiredError"
        extraction_id = re.search(r"/results/(\w+)\.csv", url).group(1)  # type: ignore[union-attr]
        assert http.request("GET", http.wait("purchases", extraction_id), key=None).status == 200


@pytest.mark.parametrize("kept", ["data/results", "elsewhere"])
def test_results_and_records_go_after_their_time(data: Path, tmp_path: Path, kept: str) -> None:
    folder = tmp_path / kept
    folder.mkdir(parents=True)
    options = [] if kept == "data/results" else ["--results-uri", folder.as_uri()]
    with embedded.start(data, env=clean_environment(), options=options) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        http.extract("purchases")
        assert len(list(folder.glob("*.csv"))) == 1
    options += ["--retention-days", str(1 / 86400)]
    with embedded.start(data, env=clean_environment(), options=options) as service:
        http = Http(service.endpoint)
        deadline = time.monotonic() + 60
        while http.json("GET", f"{http.v2}/purchases/_extract")["results"]:
            assert time.monotonic() < deadline, "the record was kept"
            time.sleep(0.1)
        assert list(folder.iterdir()) == []


def test_results_in_a_bucket_are_read_in_ranges_and_go_after_their_time(data: Path, tmp_path: Path) -> None:
    with running_s3(tmp_path / "s3") as s3:
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION}
        environment = clean_environment(AWS_ENDPOINT_URL=s3.endpoint, **keys)
        options = ["--results-uri", f"{s3.uri}/results/"]
        listed = partial(s3.client().list_objects_v2, Bucket=s3.bucket, Prefix="results/")
        with embedded.start(data, env=environment, options=options) as service:
            http = Http(service.endpoint)
            http.add("purchases", *[{"n": n} for n in range(100)])
            url = http.extract("purchases")
            body = http.request("GET", url, key=None).data
            assert body.count(b"\n") == 101
            part = http.request("GET", url, key=None, Range="bytes=10-19")
            assert (part.status, part.data) == (206, body[10:20])
            (kept,) = listed()["Contents"]
            s3.client().delete_object(Bucket=s3.bucket, Key=kept["Key"])
            gone = http.request("GET", url, key=None)
            assert (gone.status, gone.json()["error_code"]) == (404, "ResourceNotFoundError")
            http.extract("purchases")
        assert listed()["KeyCount"] == 1
        with embedded.start(data, env=environment, options=[*options, "--retention-days", str(1 / 86400)]) as service:
            http = Http(service.endpoint)
            deadline = time.monotonic() + 60
            while http.json("GET", f"{http.v2}/purchases/_extract")["results"]:
                assert time.monotonic() < deadline, "the record was kept"
                time.sleep(0.1)
            assert listed()["KeyCount"] == 0


def test_no_log_line_holds_a_key_or_a_signature(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as service:
        http = Http(service.endpoint)
        http.add("purchases", {"a": 1})
        url = http.extract("purchases")
        http.request("GET", url, key=None)
        http.request("GET", f"{http.v2}/purchases/_count", key=None, params={"api_key": http.endpoint.read_key})
        http.request("GET", f"{http.v2}/purchases/_count", key="wrong-key-sent")
        # Not by seek and read: the service writes at the same place of the same file.
        log = os.pread(service._log.fileno(), 1 << 20, 0).decode()
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"request", "extraction complete"} <= {line["message"] for line in lines}
    secrets = [http.endpoint.read_key, http.endpoint.write_key, http.endpoint.master_key, url.rsplit("=", 1)[1], "wrong-key-sent"]
    assert [secret for secret in secrets if secret in log] == []
