"""The landing against its peers: wall, CPU seconds a GB, peak memory, and the ratio to curl.

    python -m keen_pipeline_tests.benchmarks.landing [--size MB] [--files N] [--repeat R] [--only TEXT]... [--json]

Part one transfers one file of `--size` MB, part two `--files` files of 100 kB in one run, part three one file of 100 MB with
the peers that are too slow for more. In each round every contender runs once, in a process of its own, in another order each
time, after a sync; medians are printed. `csv (quoted)` lands a file of the same size with quotes, commas and line ends in fields.
Part one's encodings also land a file of 1 MB, for the memory that a large one takes more. At last come the goals, as far as their
parts were run: `--size 0`, `--files 0`, `--slow-size 0` leave one out, `--only` and `--exact` choose contenders.

curl, rclone and wget are measured as processes; Python contenders time themselves after their imports. Nobody but ours syncs
its file to the disk, checks, counts or hashes it. What isn't installed is said so: `pip install -e '.[bench]'` has the Python
peers, Debian has nginx, curl, rclone and wget. Peak memory is the whole process's. Compressors, DuckDB, polars, Arrow,
`rclone copyto` and boto3 take a local file: they have no transfer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keen_pipeline_tests.benchmarks.landing.contenders import CONTENDERS, MISSING, Task
from keen_pipeline_tests.benchmarks.landing.documents import TYPES, Document, write_document
from keen_pipeline_tests.benchmarks.landing.goals import goals, show
from keen_pipeline_tests.benchmarks.static_server import StaticServer, serving

SMALL_BYTES = 100_000
SHORT_BYTES = 1_000_000
SLOW_PEERS_MB = 100
_S3_VARIABLES = {"RCLONE_CONFIG_BENCH_TYPE": "s3", "RCLONE_CONFIG_BENCH_PROVIDER": "Other", "RCLONE_CONFIG": ""}
Command = Callable[[Task], list[list[str]]]
# Runs a command and prints its exit code, wall, CPU seconds and peak KiB. A process begins with the peak of the one that starts
# it, so this one is small.
_LAUNCHER = """
import os, sys, time
began = time.monotonic()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def _curl(task: Task) -> list[list[str]]:
    config = Path(task.out) / "curl.conf"
    config.write_text("".join(f'url="{url}"\noutput="{task.out}/{n}.csv"\n' for n, url in enumerate(task.urls)))
    return [["curl", "--silent", "--fail", "--config", str(config)]]


def _rclone_copy(task: Task) -> list[str]:
    names = Path(task.out) / "names"
    names.write_text("".join(f"{Path(path).name}\n" for path in task.paths))
    return ["rclone", "copy", ":http:", task.out, "--http-url", task.api, "--files-from-raw", str(names), "--no-traverse"]


COMMANDS: dict[str, Command] = {
    "curl": _curl,
    "wget": lambda task: [["wget", "-q", "-P", task.out, *task.urls]],
    "rclone copyurl": lambda task: [["rclone", "copyurl", url, f"{task.out}/{n}.csv"] for n, url in enumerate(task.urls)],
    "rclone copy, 4 transfers": lambda task: [_rclone_copy(task)],
    "rclone copyto S3": lambda task: [
        # Else it leaves out what is there from the round before.
        ["rclone", "copyto", "--ignore-times", path, f"bench:{task.s3_uri.removeprefix('s3://')}/rclone/{n}.csv"]
        for n, path in enumerate(task.paths)
    ],
}
ONE_FILE = [
    "curl",
    "wget",
    "rclone copyurl",
    "requests + smart_open",
    "ours csv",
    "ours csv (quoted)",
    "ours csv.gz",
    "zlib level 1 alone",
    "isal level 1 alone",
    "zlib-ng level 1 alone",
    "ours csv.zst",
    "zstd level 1 alone",
    "zstd level 1 alone, 2 threads",
    "ours parquet",
    "DuckDB COPY",
    "polars sink_parquet",
    "Arrow alone, read_csv and write_table",
    "ours csv to S3",
    "ours csv.gz to S3",
    "ours csv.zst to S3",
    "ours parquet to S3",
    "rclone copyto S3",
    "boto3 upload",
]
MANY_FILES = [
    "curl",
    "rclone copy, 4 transfers",
    "requests + smart_open",
    "ours csv",
    "ours csv.gz",
    "ours csv.zst",
    "ours parquet",
    "ours csv to S3",
]
PEERS = ["dlt Arrow to Parquet", "dlt rows to CSV", "Airbyte CDK AsyncRetriever"]
SLOW = ["curl", "ours csv", "ours parquet", *PEERS]


@dataclass
class Measured:
    """The runs of one contender: seconds, CPU seconds, peak MiB; `missing`: why there are none."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    missing: str = ""

    def take(self, seconds: float, cpu: float, peak_mib: float) -> None:
        self.seconds.append(seconds)
        self.cpu.append(cpu)
        self.peak_mib.append(peak_mib)


class Bench:
    """The servers and folders of one benchmark."""

    def __init__(self, folder: Path, server: StaticServer, www: Path, s3: tuple[str, dict[str, Any]] | None) -> None:
        self._out = folder / "out"
        self._server = server
        self._www = www
        self._s3 = s3
        self._api = ""

    def task(self, documents: Sequence[Document]) -> Task:
        uri, options = self._s3 or ("", {})
        urls = [self._server.url(document.name) for document in documents]
        paths = [str(self._www / document.name) for document in documents]
        return Task(urls, paths, str(self._out), self._server.url(""), TYPES, options, uri)

    def once(self, name: str, documents: Sequence[Document], to: Measured) -> None:
        """Run one contender once, on an empty folder and with nothing waiting for the disk."""
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir()
        os.sync()
        task = self.task(documents)
        if name in COMMANDS:
            self._external(COMMANDS[name](task), to)
        else:
            self._python(name, task, documents, to)

    def _external(self, commands: list[list[str]], to: Measured) -> None:
        if shutil.which(commands[0][0]) is None:
            to.missing = f"{commands[0][0]} is not installed"
            return
        environment = {**os.environ, **_S3_VARIABLES}
        environment.pop("AWS_CA_BUNDLE", None)  # rclone refuses one, and the S3 of the benchmark has no TLS
        if self._s3 is not None:
            options = self._s3[1]
            environment["RCLONE_CONFIG_BENCH_ENDPOINT"] = options["endpoint_url"]
            environment["RCLONE_CONFIG_BENCH_ACCESS_KEY_ID"] = options["aws_access_key_id"]
            environment["RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY"] = options["aws_secret_access_key"]
        seconds = cpu = peak = 0.0
        for command in commands:
            launched = [sys.executable, "-I", "-S", "-c", _LAUNCHER, shutil.which(command[0]) or "", *command[1:]]
            done = subprocess.run(launched, env=environment, capture_output=True, text=True, check=True)
            code, *used = done.stdout.split()[-4:]
            if code != "0":
                to.missing = f"failed with {code}: {done.stderr[-300:].strip()}"
                return
            seconds, cpu, peak = seconds + float(used[0]), cpu + float(used[1]), max(peak, float(used[2]) / 1024)
        to.take(seconds, cpu, peak)

    def _python(self, name: str, task: Task, documents: Sequence[Document], to: Measured) -> None:
        command = [sys.executable, "-m", "keen_pipeline_tests.benchmarks.landing.contenders"]
        kind = name.replace(" (quoted)", "")
        done = subprocess.run([*command, kind, json.dumps(asdict(task))], capture_output=True, text=True, check=False)
        if done.returncode == MISSING:
            to.missing = done.stderr.strip()
            return
        ours = name.startswith("ours")
        if done.returncode and ours:
            raise RuntimeError(f"{name} failed: {done.stderr[-3000:]}")
        if done.returncode:
            to.missing = f"failed: {(done.stderr.splitlines() or [''])[-1]}"
            return
        report = json.loads(done.stdout.splitlines()[-1])
        if name in PEERS and report["facts"] != documents[0].records:
            to.missing = f"it took {report['facts']} records where the file has {documents[0].records}"
            return
        if ours:
            expected = [[d.bytes, d.records, d.sha256] for d in documents]
            assert report["facts"] == expected, (name, report["facts"][:3], expected[:3])
        to.take(report["seconds"], report["cpu"], report["peak_mib"])


def compare(bench: Bench, names: Sequence[str], documents: Callable[[str], Sequence[Document]], repeat: int) -> dict[str, Measured]:
    """Every contender once a round, each round beginning with another one."""
    measured = {name: Measured() for name in names}
    for round_number in range(repeat):
        turn = round_number * 3 % len(names)
        for name in [*names[turn:], *names[:turn]]:
            if not measured[name].missing:
                bench.once(name, documents(name), measured[name])
                sys.stderr.write(".")
                sys.stderr.flush()
    sys.stderr.write("\n")
    return measured


def table(title: str, measured: dict[str, Measured], size: int, files: int) -> list[dict[str, Any]]:
    """Print the medians; returns them."""
    rows = []
    curl = measured.get("curl", Measured())
    base = statistics.median(curl.seconds) if curl.seconds else None
    print(f"\n{title}")
    print(f"{'':38}{'seconds':>9}{'min':>8}{'max':>8}{'CPU s/GB':>10}{'peak MiB':>10}{'x curl':>8}{'files/s':>9}")
    for name, runs in measured.items():
        if not runs.seconds:
            print(f"{name:38} not run: {runs.missing}")
            rows.append({"name": name, "missing": runs.missing})
            continue
        seconds, cpu = statistics.median(runs.seconds), statistics.median(runs.cpu)
        row = {
            "name": name,
            "seconds": seconds,
            "runs": runs.seconds,
            "cpu_seconds_per_gb": cpu / size * 1e9,
            "peak_mib": max(runs.peak_mib),
            "ratio_to_curl": seconds / base if base else None,
            "files_per_second": files / seconds,
        }
        rows.append(row)
        ratio = f"{seconds / base:8.2f}" if base else f"{'':>8}"
        spread = f"{min(runs.seconds):8.2f}{max(runs.seconds):8.2f}"
        print(f"{name:38}{seconds:9.2f}{spread}{cpu / size * 1e9:10.2f}{max(runs.peak_mib):10.0f}{ratio}{files / seconds:9.1f}")
    sys.stdout.flush()
    return rows


def main() -> None:
    """Run all three parts, print a table of each, and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1000, help="MB of part one's file; 0 leaves it out")
    parser.add_argument("--files", type=int, default=1000, help="files of part two; 0 leaves it out")
    parser.add_argument("--slow-size", type=int, default=SLOW_PEERS_MB, help="MB of part three's file; 0 leaves it out")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], help="contenders whose name holds this text (curl always runs)")
    parser.add_argument("--exact", action="append", default=[], help="contenders of exactly this name")
    parser.add_argument("--json", action="store_true", help="one JSON document at the end")
    arguments = parser.parse_args()
    unknown = set(ONE_FILE + MANY_FILES + SLOW) - set(COMMANDS) - set(CONTENDERS) - {"ours csv (quoted)"}
    assert not unknown, unknown

    def chosen(names: list[str]) -> list[str]:
        if not arguments.only and not arguments.exact:
            return names
        kept = (*arguments.only, "\0")
        return [n for n in names if n == "curl" or n in arguments.exact or any(text in n for text in kept)]

    with TemporaryDirectory(prefix="keen-landing-") as name, ExitStack() as stack:
        folder = Path(name)
        (www := folder / "www").mkdir()
        (work := folder / "work").mkdir()
        server = stack.enter_context(serving(www, work))
        names = {"one": chosen(ONE_FILE), "many": chosen(MANY_FILES), "slow": chosen(SLOW)}
        s3 = _s3(stack, folder) if any("S3" in n or "boto3" in n for group in names.values() for n in group) else None
        print(
            f"server: {server.kind}; S3: {'SeaweedFS' if s3 else 'not needed'}; "
            f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"
        )
        bench = Bench(folder, server, www, s3)
        result = parts(bench, www, names, arguments)
    reached = goals(result)
    show(reached)
    if arguments.json:
        json.dump({**result, "goals": reached}, sys.stdout, indent=1)


def parts(bench: Bench, www: Path, names: dict[str, list[str]], arguments: argparse.Namespace) -> dict[str, Any]:
    """The three parts that were asked for."""
    result: dict[str, Any] = {}
    if arguments.size:
        plain = write_document(www, "plain.csv", arguments.size * 1_000_000, quoted=False)
        quoted = write_document(www, "quoted.csv", arguments.size * 1_000_000, quoted=True)
        measured = compare(bench, names["one"], lambda n: [quoted if "quoted" in n else plain], arguments.repeat)
        result["one"] = table(f"one file of {arguments.size} MB, {plain.records} records", measured, plain.bytes, 1)
        ours = [name for name in names["one"] if name.startswith("ours") and "quoted" not in name]
        if ours:
            short = write_document(www, "short.csv", SHORT_BYTES, quoted=False)
            result["small"] = table("one file of 1 MB", compare(bench, ours, lambda n: [short], arguments.repeat), short.bytes, 1)
    if arguments.files:
        first = write_document(www, "small-0.csv", SMALL_BYTES, quoted=False)
        for number in range(1, arguments.files):
            shutil.copyfile(www / first.name, www / f"small-{number}.csv")
        small = [replace(first, name=f"small-{n}.csv") for n in range(arguments.files)]
        measured = compare(bench, names["many"], lambda n: small, arguments.repeat)
        title = f"{arguments.files} files of {SMALL_BYTES // 1000} kB"
        result["many"] = table(title, measured, first.bytes * len(small), len(small))
    if arguments.slow_size and set(names["slow"]) - {"curl"}:
        document = write_document(www, "slow.csv", arguments.slow_size * 1_000_000, quoted=False)
        measured = compare(bench, names["slow"], lambda n: [document], arguments.repeat)
        result["slow"] = table(f"one file of {arguments.slow_size} MB", measured, document.bytes, 1)
    return result


def _s3(stack: ExitStack, folder: Path) -> tuple[str, dict[str, Any]]:
    from keen_pipeline_tests.servers.s3 import running_s3

    server = stack.enter_context(running_s3(folder / "s3"))
    return f"{server.uri}/bench", server.options


if __name__ == "__main__":
    main()
