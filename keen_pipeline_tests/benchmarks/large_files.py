"""One backfill that lands many large files at once, against curl with four transfers at a time of the same files.

    python -m keen_pipeline_tests.benchmarks.large_files [--files 90] [--size 40] [--repeat 3] [--encoding csv]... [--json]

`keen-pipeline backfill` asks a service of the benchmark's own, which has everything complete at once, for `--files` days of
`--size` MB each; nginx (or a sendfile loop) gives the files to both sides. Wall is of the whole command, Python's start and all
requests included; memory is the proportional set size of all its processes at its peak. Every file that ours lands as CSV must
equal the source byte by byte. curl neither checks nor syncs anything. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from keen_pipeline_tests.benchmarks.landing.documents import TYPES, Document, write_document
from keen_pipeline_tests.benchmarks.meter import MARK, Meter
from keen_pipeline_tests.benchmarks.static_server import StaticServer, serving

FIRST = date(2025, 1, 1)
TRANSFERS = 4
COLLECTION = "purchases"


@contextmanager
def service(document: Document, files: StaticServer, count: int) -> Iterator[str]:
    """A Keen API whose every extraction is complete at once and has the document as its results; its base URL."""
    asked: list[dict[str, str]] = []

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            one = {"_id": uuid.uuid4().hex, "status": "complete", "results_url": files.url(f"{len(asked) % count}.csv")}
            asked.append(one)
            self._answer(one)

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.endswith("/_count"):
                window = json.loads(parse_qs(urlsplit(self.path).query)["timeframe"][0])
                start, end = (datetime.fromisoformat(window[edge]) for edge in ("start", "end"))
                self._answer({"result": document.records * (end - start).days})
            elif path.endswith("/_extract"):
                self._answer({"results": asked})
            elif "/_extract/" in path:
                self._answer(next(one for one in asked if one["_id"] == path.rpartition("/")[2]))
            elif path.endswith("/projects/benchmark"):
                self._answer({"collections": [{"name": COLLECTION}]})
            else:
                self._answer({"property_names": list(TYPES), "inferred_property_types": TYPES})

        def _answer(self, answer: object) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def measured(command: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Wall, CPU seconds and memory of a command and what it starts."""
    mark = uuid.uuid4().hex
    os.sync()
    with Meter(mark) as meter:
        begun = time.monotonic()
        done = subprocess.run(command, env={**environment, MARK: mark}, capture_output=True, text=True, check=False)
        wall = time.monotonic() - begun
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-3000:]}")
    return {"seconds": wall, "cpu_seconds": meter.cpu_seconds, "peak_mib": meter.memory_mib}


def curl(urls: Sequence[str], out: Path) -> dict[str, float]:
    """All files by one curl, four at a time."""
    out.mkdir()
    config = out / "curl.conf"
    config.write_text("".join(f'url="{url}"\noutput="{out}/{n}.csv"\n' for n, url in enumerate(urls)))
    command = ["curl", "--silent", "--fail", "--parallel", "--parallel-max", str(TRANSFERS), "--config", str(config)]
    return measured(command, dict(os.environ))


def ours(document: Document, files: StaticServer, source: Path, count: int, encoding: str, folder: Path) -> dict[str, float]:
    """One backfill; its files are compared with the source."""
    folder.mkdir()
    (folder / "collections.yaml").write_text(
        yaml.safe_dump({"collections": [{"name": COLLECTION, "start_date": FIRST.isoformat(), "encoding": encoding}]})
    )
    with service(document, files, count) as base:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEEN_", "DAGSTER_"))}
        environment = {
            **kept,
            "KEEN_BASE_URL": base,
            "KEEN_PROJECT_ID": "benchmark",
            "KEEN_READ_KEY": "benchmark-read-key",
            "KEEN_PIPELINE_COLLECTIONS": str(folder / "collections.yaml"),
            "KEEN_PIPELINE_DESTINATION": str(folder / "landing"),
            "KEEN_PIPELINE_LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
            "KEEN_PIPELINE_POLL_SECONDS": "1",
        }
        last = FIRST + timedelta(days=count - 1)
        command = [sys.executable, "-m", "keen_pipeline", "backfill", COLLECTION, "--from", str(FIRST), "--to", str(last)]
        used = measured(command, environment)
    landed = [folder / "landing" / COLLECTION / f"{FIRST + timedelta(days=n)}.{encoding}" for n in range(count)]
    assert all(file.is_file() for file in landed), [file.name for file in landed if not file.is_file()]
    if encoding == "csv":
        whole = source.read_bytes()
        assert all(file.read_bytes() == whole for file in landed)
    return used


def main() -> None:
    """Both sides in turn, medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=90)
    parser.add_argument("--size", type=int, default=40, help="MB of each")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--encoding", action="append", default=[], help="default: csv")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    arguments = parser.parse_args()
    sides = [f"ours {encoding}" for encoding in arguments.encoding or ["csv"]]
    runs: dict[str, list[dict[str, float]]] = {"curl, 4 transfers": [], **{side: [] for side in sides}}
    with TemporaryDirectory(prefix="keen-large-") as name:
        folder = Path(name)
        (www := folder / "www").mkdir()
        (work := folder / "work").mkdir()
        document = write_document(www, "0.csv", arguments.size * 1_000_000, quoted=False)
        for number in range(1, arguments.files):
            (www / f"{number}.csv").hardlink_to(www / "0.csv")
        with serving(www, work) as files:
            for _ in range(arguments.repeat):
                for side, found in runs.items():
                    out = folder / "out"
                    if side.startswith("curl"):
                        found.append(curl([files.url(f"{n}.csv") for n in range(arguments.files)], out))
                    else:
                        encoding = side.partition(" ")[2]
                        found.append(ours(document, files, www / "0.csv", arguments.files, encoding, out))
                    shutil.rmtree(out)
    result = {side: {key: statistics.median(run[key] for run in found) for key in found[0]} for side, found in runs.items()}
    _show(result, arguments)


def _show(result: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    base = result["curl, 4 transfers"]["seconds"]
    for row in result.values():
        row["ratio_to_curl"] = row["seconds"] / base
    if arguments.json:
        json.dump(result, sys.stdout, indent=1)
        return
    print(f"{arguments.files} files of {arguments.size} MB; load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(f"{'':20}{'seconds':>9}{'CPU s':>9}{'peak MiB':>10}{'x curl':>8}")
    for side, row in result.items():
        print(f"{side:20}{row['seconds']:9.1f}{row['cpu_seconds']:9.1f}{row['peak_mib']:10.0f}{row['ratio_to_curl']:8.2f}")


if __name__ == "__main__":
    main()
