"""What the long acceptance runs print at their end, and their exit status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def report(figures: Mapping[str, Any], wrong: Sequence[str], *, as_json: bool) -> int:
    """Print the figures, as a table or as one JSON document, and what is wrong; 0 where nothing is."""
    if as_json:
        print(json.dumps({**figures, "wrong": wrong}, indent=2))
        return 1 if wrong else 0
    for name, value in figures.items():
        print(f"{name:<50} {value}")
    return verdict(wrong)


def verdict(wrong: Sequence[str]) -> int:
    """Print what is wrong; 0 where nothing is."""
    print("\n".join([f"WRONG: {line}" for line in wrong] or ["nothing is wrong"]))
    return 1 if wrong else 0
