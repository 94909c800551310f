"""The contenders of the landing's benchmark that are Python; each runs in a process of its own and times itself.

    python -m keen_pipeline_tests.benchmarks.landing.contenders NAME TASK    (a JSON document; prints one)

Imports are done before the clock starts: a pipeline's process is up when a file is landed. Exit code 3: a package is missing.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keen_pipeline_tests.memory import peak_mib

if TYPE_CHECKING:
    from keen_pipeline.collection import Encoding

THREADS = 4
"""Files at once, as the pipeline lands them."""
_COPY_BYTES = 256 * 1024
MISSING = 3


@dataclass(frozen=True)
class Task:
    """What is to be transferred: the same files by URL and by path, and where to."""

    urls: list[str]
    paths: list[str]
    out: str
    api: str = ""
    types: dict[str, str] = field(default_factory=dict)
    s3: dict[str, Any] = field(default_factory=dict)
    s3_uri: str = ""


Run = Callable[[], object]


def ours(task: Task, encoding: str, root: str, transport: dict[str, Any] | None = None) -> Run:
    """The package's own landing, everything verified; several files in as many threads as the pipeline has."""
    from keen_pipeline.client import KeenClient, RenewingResults
    from keen_pipeline.collection import Encoding
    from keen_pipeline.extraction import Landing, SecretUrl
    from keen_pipeline.landing import FileDestination

    destination = FileDestination(root, transport=transport or {})
    client = KeenClient(task.urls[0].rsplit("/", 1)[0], "P", read_key="k")
    _import_what_a_landing_needs(Encoding(encoding))

    def one(numbered: tuple[int, str]) -> Landing:
        number, url = numbered
        results = RenewingResults(client, "benchmark", f"e{number}", SecretUrl(url))
        target = destination.target_uri("benchmark", f"part-{number:05d}", Encoding(encoding))
        if encoding == "parquet":
            return destination.land(results, target, extraction_id=f"e{number}", types=task.types)
        return destination.land(results, target, extraction_id=f"e{number}")

    def run() -> list[tuple[int, int, str]]:
        if len(task.urls) == 1:
            landings = [one((0, task.urls[0]))]
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                landings = list(pool.map(one, enumerate(task.urls)))
        client.close()
        return [(landing.bytes, landing.records, landing.sha256) for landing in landings]

    return run


def _import_what_a_landing_needs(encoding: Encoding) -> None:
    importlib.import_module("keen_pipeline.landing.transfer.download")
    if encoding.value == "parquet":
        importlib.import_module("keen_pipeline.landing.parquet.convert")
    else:
        importlib.import_module("keen_pipeline.landing.transfer.encode").Encoder(encoding)


def ours_on_s3(task: Task, encoding: str) -> Run:
    os.environ.update(AWS_ACCESS_KEY_ID=task.s3["aws_access_key_id"], AWS_SECRET_ACCESS_KEY=task.s3["aws_secret_access_key"])
    return ours(task, encoding, task.s3_uri, {"endpoint": task.s3["endpoint_url"], "region": task.s3["region_name"]})


def requests_and_smart_open(task: Task) -> Run:
    import requests
    import smart_open

    def run() -> None:
        with requests.Session() as session:
            for number, url in enumerate(task.urls):
                with session.get(url, stream=True) as answer, smart_open.open(f"{task.out}/{number}.csv", "wb") as file:
                    for piece in answer.iter_content(1024 * 1024):
                        file.write(piece)

    return run


def boto3_upload(task: Task) -> Run:
    import boto3

    client = boto3.client("s3", **task.s3)
    bucket, _, prefix = task.s3_uri.removeprefix("s3://").partition("/")

    def run() -> None:
        for path in task.paths:
            client.upload_file(path, bucket, f"{prefix}/boto3/{Path(path).name}")

    return run


def compressor(task: Task, open_file: Callable[[str], Any]) -> Run:
    def run() -> None:
        for path in task.paths:
            with Path(path).open("rb") as source, open_file(f"{task.out}/{Path(path).name}") as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)

    return run


def zlib_alone(task: Task) -> Run:
    import gzip

    return compressor(task, lambda path: gzip.open(path + ".gz", "wb", compresslevel=1))


def isal_alone(task: Task) -> Run:
    from isal import igzip

    return compressor(task, lambda path: igzip.open(path + ".gz", "wb", compresslevel=1))


def zlib_ng_alone(task: Task) -> Run:
    from zlib_ng import gzip_ng

    return compressor(task, lambda path: gzip_ng.open(path + ".gz", "wb", compresslevel=1))


def zstd_alone(task: Task, workers: int) -> Run:
    from backports import zstd

    parameter = zstd.CompressionParameter
    options = {parameter.compression_level: 1, parameter.checksum_flag: 1, parameter.nb_workers: workers}
    return compressor(task, lambda path: zstd.open(path + ".zst", "wb", options=options))


def duckdb_copy(task: Task) -> Run:
    import duckdb

    def run() -> None:
        for path in task.paths:
            duckdb.sql(
                f"COPY (FROM read_csv('{path}')) TO '{task.out}/{Path(path).name}.parquet' (FORMAT parquet, COMPRESSION zstd)"
            )

    return run


def polars_sink(task: Task) -> Run:
    import polars

    def run() -> None:
        for path in task.paths:
            polars.scan_csv(path).sink_parquet(f"{task.out}/{Path(path).name}.parquet")

    return run


def pyarrow_alone(task: Task) -> Run:
    """What ours is made of, without a transfer, a check or a bound on its memory."""
    from pyarrow import csv, parquet

    def run() -> None:
        for path in task.paths:
            parquet.write_table(csv.read_csv(path), f"{task.out}/{Path(path).name}.parquet", compression="zstd")

    return run


def airbyte(task: Task) -> Run:
    from keen_pipeline_tests.benchmarks.landing.peers import airbyte_async_retriever

    return airbyte_async_retriever(task.urls[0], task.out, list(task.types))


def dlt(task: Task, form: str) -> Run:
    from keen_pipeline_tests.benchmarks.landing.peers import dlt_pipeline

    return dlt_pipeline(task.urls[0], task.out, form)


CONTENDERS: dict[str, Callable[[Task], Run]] = {
    "ours csv": lambda task: ours(task, "csv", task.out),
    "ours csv.gz": lambda task: ours(task, "csv.gz", task.out),
    "ours csv.zst": lambda task: ours(task, "csv.zst", task.out),
    "ours parquet": lambda task: ours(task, "parquet", task.out),
    "ours csv to S3": lambda task: ours_on_s3(task, "csv"),
    "ours csv.gz to S3": lambda task: ours_on_s3(task, "csv.gz"),
    "ours csv.zst to S3": lambda task: ours_on_s3(task, "csv.zst"),
    "ours parquet to S3": lambda task: ours_on_s3(task, "parquet"),
    "requests + smart_open": requests_and_smart_open,
    "boto3 upload": boto3_upload,
    "zlib level 1 alone": zlib_alone,
    "isal level 1 alone": isal_alone,
    "zlib-ng level 1 alone": zlib_ng_alone,
    "zstd level 1 alone": lambda task: zstd_alone(task, 0),
    "zstd level 1 alone, 2 threads": lambda task: zstd_alone(task, 2),
    "DuckDB COPY": duckdb_copy,
    "polars sink_parquet": polars_sink,
    "Arrow alone, read_csv and write_table": pyarrow_alone,
    "Airbyte CDK AsyncRetriever": airbyte,
    "dlt Arrow to Parquet": lambda task: dlt(task, "arrow"),
    "dlt rows to CSV": lambda task: dlt(task, "rows"),
}


def main() -> None:
    """Prepare one contender, time it, print what it used."""
    name, task = sys.argv[1], Task(**json.loads(sys.argv[2]))
    try:
        run = CONTENDERS[name](task)
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(MISSING)
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    facts = run()
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    json.dump({"seconds": seconds, "cpu": cpu, "peak_mib": peak_mib(), "facts": facts}, sys.stdout)


if __name__ == "__main__":
    main()
