"""Every fault of a transfer, on a hostile server of our own, and how the landing ended.

    python -m keen_pipeline_tests.acceptance.faults [--json]

The cases are those of `landing/test_faults.py`, and a few that need a second server or the clock. An older file lies at the
target of each. A landing ends with the whole new file (equal byte by byte), or with a named error and the older file untouched;
anything else is WRONG, and the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.landing.transfer import download
from keen_pipeline.pipeline.counts import verdict
from keen_pipeline_tests.acceptance.faults.cut_at_a_record import RECORDS, extract_counted, short
from keen_pipeline_tests.landing.conftest import Lander, example
from keen_pipeline_tests.landing.transfer.test_faults import OLD, RECOVERED, REFUSED
from keen_pipeline_tests.servers import faults
from keen_pipeline_tests.servers.faults import Behaviour, FaultServer

WHOLE, ERROR, WRONG = "whole file", "named error", "WRONG"


@dataclass(frozen=True)
class Row:
    """One fault. `connections`: requests for the results; `resumed`: how many of them asked for the rest only."""

    fault: str
    end: str
    says: str
    connections: int
    resumed: int
    seconds: float


def cases() -> dict[str, Sequence[Behaviour]]:
    """The behaviours of the server, by the fault's name: one for each connection, the last one for all that follow."""

    def retry_at_a_date(to: faults.Exchange) -> None:
        moment = datetime.now(timezone.utc) + timedelta(seconds=1)
        faults.status(429, Retry_After=format_datetime(moment, usegmt=True))(to)

    return {
        **RECOVERED,
        **{name: behaviours for name, (behaviours, _) in REFUSED.items()},
        "429 with a date": [retry_at_a_date, faults.whole()],
    }


def run(name: str, behaviours: Sequence[Behaviour], folder: Path) -> Row:
    """One case in an empty folder."""
    with FaultServer(body=example()) as server:
        lander = Lander(folder, server, read_timeout=0.3, transfer_timeout=0.6)
        return _land(name, lander, server, lambda: lander.land(behaviours))


def run_redirected(folder: Path) -> Row:
    """A redirect to another host, which must not learn the key."""
    with FaultServer(body=example()) as server, FaultServer(results=[faults.whole()], body=example()) as other:
        lander = Lander(folder, server, read_timeout=0.3, transfer_timeout=0.6)
        row = _land("a redirect to another host", lander, server, lambda: lander.land([faults.redirect(other.results_url)]))
        if any("authorization" in request.headers for request in other.requests):
            return Row(row.fault, WRONG, "the other host got the key", row.connections, row.resumed, row.seconds)
        return row


def run_cut_at_a_record(folder: Path) -> Iterator[Row]:
    """A body without a length that ends at a record's end, once and always: found by the count, see `cut_at_a_record`."""
    for name, results, expected in (
        ("undelimited, cut at a record's end", [short(), faults.whole()], WHOLE),
        ("always undelimited, cut at a record's end", [short()], ERROR),
    ):
        root, begun = folder / expected, time.monotonic()
        with FaultServer(body=example(RECORDS)) as server:
            last = extract_counted(root, server, results)[-1]
            equal = (root / "purchases" / "2026-01-01.csv").read_bytes() == server.body
        # Nobody can tell a cut from a service that counts wrong: the file stays, and its check fails with both numbers.
        end = WHOLE if equal and last.entry.is_whole else ERROR if last.is_final_failure else WRONG
        yield Row(name, end, verdict(last), len(server.asked("/results")), 0, round(time.monotonic() - begun, 2))


def _land(name: str, lander: Lander, server: FaultServer, land: Callable[[], object]) -> Row:
    target = lander.root / "purchases" / "2026-01-01.csv"
    target.parent.mkdir(parents=True)
    target.write_bytes(OLD)
    begun = time.monotonic()
    try:
        land()
        end, says = (
            (WHOLE if target.read_bytes() == server.body else WRONG),
            f"{len(server.body)} bytes, equal to what the server holds",
        )
    except KeenPipelineError as error:
        end, says = (ERROR if target.read_bytes() == OLD else WRONG), f"{type(error).__name__}: {error}"
    left = [path.name for path in target.parent.iterdir() if path != target]
    if left:
        end, says = WRONG, f"left over: {left}"
    if "s3cr3t" in says:
        end = WRONG
    asked = server.asked("/results")
    resumed = sum("range" in request.headers for request in asked)
    return Row(name, end, says.replace(str(lander.root), "<destination>"), len(asked), resumed, round(time.monotonic() - begun, 2))


def table(names: Sequence[str] | None = None) -> Iterator[Row]:
    """All cases, or those of `names`, one after the other."""
    download.FIRST_WAIT_SECONDS = 0.01
    download.MOST_CONNECTIONS = 6
    with TemporaryDirectory(prefix="keen-faults-") as folder:
        chosen = {name: b for name, b in cases().items() if names is None or name in names}
        for number, (name, behaviours) in enumerate(chosen.items()):
            yield run(name, behaviours, Path(folder) / str(number))
        if names is None:
            yield run_redirected(Path(folder) / "redirected")
            yield from run_cut_at_a_record(Path(folder) / "cut")


def main() -> int:
    """Print the table; 0 where no end is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    rows = []
    as_json = parser.parse_args().json
    if not as_json:
        print(f"{'fault':<48} {'end':<12} {'conn.':>5} {'resumed':>7} {'s':>6}  what it says")
    for row in table():
        rows.append(row)
        if not as_json:
            print(
                f"{row.fault:<48} {row.end:<12} {row.connections:>5} {row.resumed:>7} {row.seconds:>6.2f}  {row.says[:150]}",
                flush=True,
            )
    wrong = [row for row in rows if row.end == WRONG]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        ends = {end: sum(row.end == end for row in rows) for end in (WHOLE, ERROR, WRONG)}
        print(f"{len(rows)} faults: {ends[WHOLE]} whole files, {ends[ERROR]} named errors, {ends[WRONG]} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
