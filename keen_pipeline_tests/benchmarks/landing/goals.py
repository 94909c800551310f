"""What the landing shall reach on the machine it is measured on, each goal against the peer that is measured beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

GROWTH_MIB = 64
FILES_PER_SECOND = 200
ENCODINGS = ["csv", "csv.gz", "csv.zst", "parquet"]
COMPRESSORS = {
    "csv.gz": ["zlib level 1 alone", "isal level 1 alone", "zlib-ng level 1 alone"],
    "csv.zst": ["zstd level 1 alone", "zstd level 1 alone, 2 threads"],
}
READERS = ["DuckDB COPY", "polars sink_parquet"]
DLT = ["dlt rows to CSV", "dlt Arrow to Parquet"]

Row = Mapping[str, Any]
Rows = Mapping[str, Row]


def goals(result: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """The goals of the parts that were measured: `goal`, `limit`, `value`, `verdict` (reached, missed or not measured)."""
    parts: dict[str, Rows] = {part: {row["name"]: row for row in rows} for part, rows in result.items()}
    found = []
    if "one" in parts:
        found += _of_one_file(parts["one"])
    if "many" in parts:
        rate = _figure(parts["many"], "ours csv", "files_per_second")
        found.append(_goal("small files a second, csv", FILES_PER_SECOND, rate, float.__ge__))
    if "slow" in parts:
        peers = {"Airbyte CDK AsyncRetriever": 50} | dict.fromkeys(DLT, 20)
        for peer, times in peers.items():
            found.append(_goal(f"{peer} / ours csv", times, _ratio(parts["slow"], peer, ["ours csv"]), float.__ge__))
    if "small" in parts and "one" in parts:
        for name in parts["small"]:
            large, small = (_figure(parts[part], name, "peak_mib") for part in ("one", "small"))
            growth = None if large is None or small is None else large - small
            found.append(_goal(f"MiB of memory that {name} takes more than with 1 MB", GROWTH_MIB, growth, float.__le__))
    return found


def _of_one_file(rows: Rows) -> list[dict[str, Any]]:
    found = [
        _goal(f"{name} / curl", 1.15, _ratio(rows, name, ["curl"]), float.__le__) for name in ("ours csv", "ours csv (quoted)")
    ]
    for encoding, alone in COMPRESSORS.items():
        ratio = _ratio(rows, f"ours {encoding}", alone)
        found.append(_goal(f"ours {encoding} / the best compressor alone", 1.1, ratio, float.__le__))
    ratio = _ratio(rows, "ours parquet", READERS)
    found.append(_goal("ours parquet / the better of DuckDB and polars, of a local file", 1.1, ratio, float.__le__))
    ratio = _ratio(rows, "ours csv to S3", ["rclone copyto S3"])
    found.append(_goal("ours csv to S3 / rclone copyto, of a local file", 1.15, ratio, float.__le__))
    return found


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of the goals."""
    print(f"\n{'goal':72}{'wanted':>10}{'measured':>10}")
    for goal in found:
        value = "" if goal["value"] is None else f"{goal['value']:.2f}"
        print(f"{goal['goal']:72}{goal['limit']:>10}{value:>10}  {goal['verdict']}")


def _goal(name: str, limit: float, value: float | None, fits: Callable[[float, float], bool]) -> dict[str, Any]:
    verdict = "not measured" if value is None else "reached" if fits(float(value), float(limit)) else "missed"
    sign = "<=" if fits(0.0, 1.0) else ">="
    return {"goal": name, "limit": f"{sign} {limit:g}", "value": value, "verdict": verdict}


def _figure(rows: Rows, name: str, what: str) -> float | None:
    figure = rows.get(name, {}).get(what)
    return None if figure is None else float(figure)


def _ratio(rows: Rows, name: str, peers: Sequence[str]) -> float | None:
    """Wall of `name` over that of the best of `peers`."""
    wall = _figure(rows, name, "seconds")
    others = [seconds for peer in peers if (seconds := _figure(rows, peer, "seconds")) is not None]
    return wall / min(others) if wall is not None and others else None
