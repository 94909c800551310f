"""The whole job by two peers that load rows: Airbyte CDK's AsyncRetriever and dlt. Installed by the extra `bench`."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STREAM = "events"


class _Jobs(BaseHTTPRequestHandler):
    """An asynchronous API whose only job is done at once; `server.results_url` is where its CSV lies."""

    def do_POST(self) -> None:
        """The job is created."""
        self._answer({"id": "1"})

    def do_GET(self) -> None:
        """And complete."""
        self._answer({"id": "1", "status": "complete", "results_url": self.server.results_url})  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""

    def _answer(self, document: dict[str, str]) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _requester(base: str, path: str, method: str) -> dict[str, Any]:
    return {"type": "HttpRequester", "url_base": base, "path": path, "http_method": method}


def _manifest(api: str, columns: list[str]) -> dict[str, Any]:
    retriever = {
        "type": "AsyncRetriever",
        "record_selector": {"type": "RecordSelector", "extractor": {"type": "DpathExtractor", "field_path": []}},
        "status_mapping": {
            "type": "AsyncJobStatusMap",
            "running": ["running"],
            "completed": ["complete"],
            "failed": ["failed"],
            "timeout": ["timeout"],
        },
        "status_extractor": {"type": "DpathExtractor", "field_path": ["status"]},
        "download_target_extractor": {"type": "DpathExtractor", "field_path": ["results_url"]},
        "download_extractor": {"type": "ResponseToFileExtractor"},
        "creation_requester": _requester(api, "/jobs", "POST"),
        "polling_requester": _requester(api, "/jobs/{{ creation_response['id'] }}", "GET"),
        "download_requester": _requester("{{ download_target }}", "", "GET"),
    }
    schema = {"type": "object", "properties": {column: {"type": ["null", "string"]} for column in columns}}
    stream = {
        "type": "DeclarativeStream",
        "name": _STREAM,
        "primary_key": [],
        "retriever": retriever,
        "schema_loader": {"type": "InlineSchemaLoader", "schema": schema},
    }
    return {
        "version": "6.44.0",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": [_STREAM]},
        "streams": [stream],
        "spec": {"type": "Spec", "connection_specification": {"type": "object", "properties": {}}},
    }


def airbyte_async_retriever(url: str, out: str, columns: list[str]) -> Callable[[], int]:
    """Reads the CSV at `url` through a declarative source and writes the records to `out` as a CSV; returns their number."""
    from airbyte_cdk.models import AirbyteMessage, ConfiguredAirbyteCatalogSerializer
    from airbyte_cdk.models import Type as MessageType
    from airbyte_cdk.sources.declarative.concurrent_declarative_source import ConcurrentDeclarativeSource

    jobs = ThreadingHTTPServer(("127.0.0.1", 0), _Jobs)
    jobs.results_url = url  # type: ignore[attr-defined]
    threading.Thread(target=jobs.serve_forever, daemon=True).start()
    stream = {"name": _STREAM, "json_schema": {}, "supported_sync_modes": ["full_refresh"]}
    configured = {"stream": stream, "sync_mode": "full_refresh", "destination_sync_mode": "append"}
    catalog = ConfiguredAirbyteCatalogSerializer.load({"streams": [configured]})
    manifest = _manifest(f"http://127.0.0.1:{jobs.server_port}", columns)

    silent = logging.getLogger("airbyte")

    def run() -> int:
        source = ConcurrentDeclarativeSource(catalog=catalog, config={}, state=None, source_config=manifest)
        messages: Iterator[AirbyteMessage] = source.read(silent, {}, catalog, None)
        number = 0
        with open(f"{out}/airbyte.csv", "w", newline="", encoding="utf-8") as file:  # noqa: PTH123
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            for message in messages:
                if message.type == MessageType.RECORD and message.record is not None:
                    writer.writerow(message.record.data)
                    number += 1
        jobs.shutdown()
        return number

    return run


def dlt_pipeline(url: str, out: str, form: str) -> Callable[[], int]:
    """Loads the CSV at `url` into `out`: as Arrow tables to Parquet (`arrow`), or row by row to CSV (`rows`)."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    import dlt
    import requests
    from dlt.destinations import filesystem

    taken: list[int] = []

    def arrow() -> Iterator[Any]:
        from pyarrow import csv as arrow_csv

        with requests.get(url, stream=True, timeout=60) as answer:
            answer.raw.auto_close = False  # else it is closed before its reader has asked for the end
            for batch in arrow_csv.open_csv(answer.raw):
                taken.append(batch.num_rows)
                yield batch

    def rows() -> Iterator[list[dict[str, str]]]:
        with requests.get(url, stream=True, timeout=60) as answer:
            answer.raw.auto_close = False
            batch: list[dict[str, str]] = []
            for row in csv.DictReader(io.TextIOWrapper(answer.raw, "utf-8", newline="")):
                batch.append(row)
                taken.append(1)
                if len(batch) == 10_000:
                    yield batch
                    batch = []
            yield batch

    def run() -> int:
        pipeline = dlt.pipeline(
            "landing", pipelines_dir=f"{out}/work", destination=filesystem(f"file://{out}/files"), dataset_name="events"
        )
        source, kind = (arrow, "parquet") if form == "arrow" else (rows, "csv")
        pipeline.run(dlt.resource(source, name=_STREAM), loader_file_format=kind)  # type: ignore[arg-type]
        return sum(taken)

    return run
