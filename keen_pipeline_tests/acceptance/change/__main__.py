"""Random histories of what changes around a pipeline: days, events, configurations, neighbours, processes, clocks.

    python -m keen_pipeline_tests.acceptance.change --rounds 200 [--seed S] [--replay FILE]

Each round is one history on an empty ledger: definitions `one` and `two` share it (two has another destination), against two live
services behind a proxy of many faults. After the steps of a round all faults end, what is paused goes on, and two nights and their
landings settle it. Then every file that today's configuration wants equals a direct extraction of now, files and entries of scopes
that nobody uses any more are untouched, each landing was told once, the ledger's word of every file is true, a third night asks for
nothing, and nothing waits. A history that fails is shrunk by dropping steps and printed as a script for `--replay`.
Exit status 0 only if every round holds. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keen_pipeline_tests.acceptance.change.history import CHOICES, CONTEXT, NAMES, PRELOAD, History, Step
from keen_pipeline_tests.acceptance.change.site import REFUSALS, Site, site
from keen_pipeline_tests.acceptance.report import report


def steps_of(rng: random.Random, number: int) -> list[Step]:
    """A random history."""
    name: Callable[[], str] = lambda: rng.choice(("one", "one", "two"))  # noqa: E731
    letter: Callable[[], str] = lambda: rng.choice(NAMES)  # noqa: E731
    makers: list[tuple[int, Callable[[], Step]]] = [
        (6, lambda: {"do": "night", "name": name()}),
        (8, lambda: {"do": "daemon", "name": name(), "ticks": rng.randint(3, 25)}),
        (
            5,
            lambda: {
                "do": "backfill",
                "name": name(),
                "first": rng.randint(1, 4),
                "days": rng.randint(0, 2),
                "resumable": rng.random() < 0.5,
            },
        ),
        (10, lambda: {"do": "rest", "seconds": round(rng.uniform(0.1, 2.5), 2)}),
        (8, lambda: {"do": "signal", "which": rng.randint(0, 5), "how": rng.choice(("KILL", "KILL", "TERM", "STOP", "CONT"))}),
        (4, lambda: {"do": "late", "ago": rng.randint(0, 3), "letter": letter(), "number": rng.randint(1, 9)}),
        (2, lambda: {"do": "day"}),
        (1, lambda: {"do": "asleep", "days": rng.randint(2, 6)}),
        (
            8,
            lambda: {
                "do": "change",
                "name": name(),
                "what": rng.choice(list(CHOICES)),
                "choice": rng.randint(0, 5),
                "letter": letter(),
            },
        ),
        (1, lambda: {"do": "key", "name": name(), "choice": rng.randint(0, 5)}),
        (2, lambda: {"do": "move", "name": name(), "what": rng.choice(("project", "destination")), "choice": rng.randint(0, 5)}),
        (1, lambda: {"do": "collection", "name": name(), "letter": letter(), "there": rng.random() < 0.5}),
        (3, lambda: {"do": "refuse", "project": rng.randint(0, 1), "letter": letter(), "how": rng.choice(list(REFUSALS))}),
        (2, lambda: {"do": "allow"}),
        (2, lambda: {"do": "clock", "hours": rng.choice((-30.0, -3.0, 0.0, 0.0, 5.0, 200.0))}),
    ]
    weights = [weight for weight, _ in makers]
    return [rng.choices(makers, weights)[0][1]() for _ in range(number)]


def play(where: Site, folder: Path, steps: list[Step]) -> list[str]:
    """One history from nothing; what is wrong at its end."""
    history = History(where, folder, f"h{secrets.token_hex(4)}")
    history.begin()
    where.misbehave(True)
    try:
        for step in steps:
            history.take(step)
        history.settle()
    finally:
        history._end_all()
        where.misbehave(False)
    return history.wrong


def shrink(where: Site, folder: Path, steps: list[Step], seconds: float) -> list[Step]:
    """Fewer steps that fail as well, as far as the time goes."""
    deadline, size = time.monotonic() + seconds, max(1, len(steps) // 2)
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(steps) and time.monotonic() < deadline:
            fewer = steps[:at] + steps[at + size :]
            if play(where, folder / secrets.token_hex(4), fewer):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


def change(folder: Path, rounds: int, seed: int, *, shrink_seconds: float = 0.0) -> tuple[dict[str, Any], list[str]]:
    """Play the rounds; the figures, and what is wrong."""
    begun, wrong, played = time.monotonic(), list[str](), Counter[str]()
    CONTEXT.set_forkserver_preload(PRELOAD)
    done = 0
    with site(seed) as where:
        for number in range(rounds):
            steps = steps_of(random.Random(f"{seed}.{number}"), 14)
            found = play(where, folder / str(number), steps)
            played.update(step["do"] for step in steps)
            done += 1
            sys.stderr.write(f"\rround {number + 1} of {rounds}, {len(wrong)} wrong ")
            if found:
                sys.stderr.write("\n".join(["", f"round {number}:", *found, json.dumps(steps), ""]))
                steps = shrink(where, folder / f"{number}-shrunk", steps, shrink_seconds)
                script = json.dumps({"seed": seed, "round": number, "steps": steps}, indent=1)
                wrong += [f"round {number}: {one}" for one in found]
                wrong.append(f"to play it again, save as FILE for --replay FILE:\n{script}")
        faults = sum((proxy.faults for proxy in where.proxies), Counter[str]())
    sys.stderr.write("\n")
    figures = {"rounds": done, "seed": seed, "steps": dict(played), "faults": dict(faults)}
    return figures | {"seconds": round(time.monotonic() - begun)}, wrong


def main() -> int:
    """Print the figures and what is wrong; 0 where nothing is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="of the histories; printed, so that a run can be repeated")
    parser.add_argument("--replay", type=Path, help="a script that an earlier run printed")
    parser.add_argument("--shrink-seconds", type=float, default=300.0, help="for making a failing history shorter")
    parser.add_argument("--dir", type=Path, help="an empty or new folder to keep; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="keen-change-") as temporary:
        folder = arguments.dir or Path(temporary)
        if arguments.replay is not None:
            script = json.loads(arguments.replay.read_text())
            CONTEXT.set_forkserver_preload(PRELOAD)
            with site(script["seed"]) as where:
                wrong = play(where, folder / "replay", script["steps"])
            return report({"steps": len(script["steps"])}, wrong, as_json=arguments.json)
        seed = arguments.seed if arguments.seed is not None else secrets.randbelow(1_000_000)
        figures, wrong = change(folder, arguments.rounds, seed, shrink_seconds=arguments.shrink_seconds)
    return report(figures, wrong, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
