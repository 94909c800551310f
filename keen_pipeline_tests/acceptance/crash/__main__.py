"""Nights and backfills of three collections, while run workers, the daemon and the service are killed at random moments.

    python -m keen_pipeline_tests.acceptance.crash --rounds 200 [--seed S] [--json]

Each round begins a night or a backfill, waits a random while, sends one SIGKILL and starts again what a supervisor would start
again. At the end nothing is killed any more, the pipeline settles by itself, one more night removes what killed landings left
(made to look old enough), and the audit asks files, ledger, event log and service whether anything was lost, doubled or left
over. A night or backfill whose run was killed before it had journalled its intent (Dagster's own retries included) is launched
again, as its operator would; the figures say how many.
Exit status 0 only where everything holds. Linux only.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus

from keen_pipeline.ledger.database.tables import entries
from keen_pipeline.ledger.database.transactions import read_only
from keen_pipeline_tests.acceptance.crash.audit import Partition, audit, partitions
from keen_pipeline_tests.acceptance.crash.rig import START, Rig, add_backfill
from keen_pipeline_tests.acceptance.ledger_figures import unreported
from keen_pipeline_tests.acceptance.report import report

BACKFILL_DAYS = 4
# Moments in a round: longer than a run takes to start, so that every phase of it is met.
MOST_SECONDS = 9.0
VICTIMS = ("run", "run", "daemon", "service")
PHASES = (
    sa.and_(entries.c.status == "requested", entries.c.posted_at.is_not(None)),
    sa.and_(entries.c.status == "complete", entries.c.claimed_by.is_not(None)),
    sa.and_(entries.c.status == "landed", entries.c.reported_at.is_(None)),
)
SETTLE_SECONDS = 600.0
# Only backfills are open, and nothing has moved for so long: a retry is launched within seconds, or never.
BACKFILL_SECONDS = 120.0
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_BACKFILLS = BulkActionsFilter(statuses=[s for s in BulkActionStatus if s not in BULK_ACTION_TERMINAL_STATUSES])


class Operator:
    """Begins nights and backfills of ever new days."""

    def __init__(self, rig: Rig, rounds: int) -> None:
        self.rig = rig
        # Three of four rounds begin a night, every fourth a backfill; the nights come first in the calendar, with one more.
        self.nights_planned = 1 + sum(1 for n in range(rounds) if n % 4 != 1)
        self.nights = 0
        self.backfills = 0
        self.relaunched = 0

    @staticmethod
    def days(rounds: int) -> int:
        """How many days of events a number of rounds takes, and the night after them."""
        return 1 + sum(BACKFILL_DAYS if n % 4 == 1 else 1 for n in range(rounds))

    def begin_night(self) -> None:
        """The next night."""
        self.nights += 1
        self.rig.begin_nights(self.nights)

    def begin(self, round_number: int) -> None:
        """What this round begins."""
        if round_number % 4 != 1:
            self.begin_night()
            return
        first = self.nights_planned + self.backfills * BACKFILL_DAYS
        self.backfills += 1
        self.backfill([(START + timedelta(days=first + n)).isoformat() for n in range(BACKFILL_DAYS)])

    def backfill(self, days: Sequence[str]) -> None:
        """One asset backfill of the days for all collections, as the UI makes it."""
        add_backfill(self.rig.instance, self.rig.collections, days)

    def relaunch(self, asked: Sequence[Partition]) -> bool:
        """Ask again for days that no ledger entry knows; false where there are none."""
        known = {(e.request.collection, e.request.partition_key) for e in self.rig.ledger.entries(range(1, 100_000))}
        days = sorted({day for name, day in asked if (name, day) not in known})
        if days:
            self.relaunched += len(days)
            self.backfill(days)
        return bool(days)


def await_phase(rig: Rig) -> None:
    """Until something is between two steps: a POST under way, a landing under way, a landing not reported yet."""
    wanted = rig.rng.choice(PHASES)
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline:
        with read_only(rig.ledger.engine) as connection:
            if connection.execute(sa.select(entries.c.id).where(wanted).limit(1)).first() is not None:
                return
        time.sleep(0.002)


def kill_one(rig: Rig) -> str:
    """Wait a random while, kill one of the three kinds, start again what a supervisor starts again; answers its name.

    Half of the moments are any, half of them are in the middle of something, which chance alone would hardly meet.
    """
    victim = rig.rng.choice(VICTIMS)
    if victim == "run":
        deadline = time.monotonic() + MOST_SECONDS
        while not rig.run_workers() and time.monotonic() < deadline:
            time.sleep(0.1)
    if rig.rng.random() < 0.5:
        await_phase(rig)
    else:
        time.sleep(rig.rng.uniform(0, MOST_SECONDS))
    if victim == "run":
        if rig.kill_run():
            return victim
        victim = rig.rng.choice(("daemon", "service"))
    rig.kill(victim)
    time.sleep(rig.rng.uniform(0, 1))
    rig.start(victim)
    return victim


def still_open(rig: Rig) -> tuple[int, ...]:
    """How much is open anywhere: entries, counts, reports, runs, backfills."""
    return (
        len(rig.ledger.open_entries()),
        len(rig.ledger.uncounted()),
        unreported(rig.ledger),
        len(rig.instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))),
        len(rig.instance.get_backfills(_BACKFILLS)),
    )


def settle(rig: Rig) -> int:
    """Wait until nothing is open three times in a row, so that what one part hands to the next is not missed in between.

    A thousand rounds leave a queue of runs, so the bound is on the time in which nothing moves. Answers how many backfills were
    ended, as an operator would: they waited for a retry of a run, and the daemon was killed between noting it and launching it.
    """
    moved, before, quiet, cancelled = time.monotonic(), (0,), 0, 0
    while quiet < 3:
        rig.check()
        if (now := still_open(rig)) != before:
            moved, before = time.monotonic(), now
        passed = time.monotonic() - moved
        if passed > BACKFILL_SECONDS and now[-1] and not any(now[:-1]):
            for backfill in rig.instance.get_backfills(_BACKFILLS):
                rig.instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))
                cancelled += 1
        assert passed < SETTLE_SECONDS, (
            f"nothing moved in {SETTLE_SECONDS:g} s: {[str(e) for e in rig.ledger.open_entries()]}, "
            f"{unreported(rig.ledger)} unreported, runs {rig.instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))}"
        )
        quiet = 0 if any(now) else quiet + 1
        time.sleep(2)
    return cancelled


def crash(folder: Path, rounds: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """Run the rounds in an empty folder; the figures, and what is wrong."""
    begun = time.monotonic()
    days = Operator.days(rounds)
    assert START + timedelta(days=days) <= datetime.now(timezone.utc).date(), f"{rounds} rounds take more days than there were"
    with Rig(folder, days, random.Random(seed)) as rig:
        operator, killed = Operator(rig, rounds), Counter[str]()
        for number in range(rounds):
            operator.begin(number)
            killed[kill_one(rig)] += 1
            rig.check()
            sys.stderr.write(f"\rround {number + 1} of {rounds}, killed {dict(killed)} ")
        sys.stderr.write("settling\n")
        killing = time.monotonic() - begun
        cancelled = settle(rig)
        # The product removes leftovers by night, once they are old enough.
        staged = rig.age_staged_files()
        operator.begin_night()
        time.sleep(5)  # the daemon has to see it first
        cancelled += settle(rig)
        asked = partitions(rig.collections, days)
        while operator.relaunch(asked):
            time.sleep(5)  # the daemon has to see it first
            cancelled += settle(rig)
        figures: dict[str, Any] = {
            "rounds": rounds,
            "seed": seed,
            "killed": dict(killed),
            "nights": operator.nights,
            "backfills": operator.backfills,
            "days launched again, killed before their intent": operator.relaunched,
            "backfills that waited for a retry whose daemon was killed": cancelled,
            "staged files of killed landings, before the last night": staged,
            "runs": dict(Counter(run.status.value for run in rig.instance.get_runs())),
        }
        found, wrong = audit(rig, asked)
        figures |= found
        figures["seconds of kills"] = round(killing)
        figures["seconds in all"] = round(time.monotonic() - begun)
    return figures, wrong


def main() -> int:
    """Print the figures and what is wrong; 0 where nothing is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="of the random moments; printed, so that a run can be repeated")
    parser.add_argument("--dir", type=Path, help="an empty or new folder to keep; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(1_000_000)
    with TemporaryDirectory(prefix="keen-crash-") as temporary:
        figures, wrong = crash(arguments.dir or Path(temporary) / "rig", arguments.rounds, seed)
    return report(figures, wrong, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
