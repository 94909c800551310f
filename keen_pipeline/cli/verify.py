"""`keen-pipeline verify`: what has landed, read again and proven again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from keen_pipeline.cli.common import (
    MOST_SHOWN,
    complete_collections,
    configured_collections,
    console,
    follow,
    print_json,
    progress_bar,
    service_for_command,
    show,
    shown,
)
from keen_pipeline.errors import InvalidInputError, VerificationError
from keen_pipeline.lifecycle import Entry
from keen_pipeline.pipeline import Pipeline
from keen_pipeline.pipeline.files.verify import Range, Verified, landed_of, repair, strangers, to_repair, verify
from keen_pipeline.pipeline.told import command_line, few
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_pipeline

_KEY = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])(-([01]\d|2[0-3]):[0-5]\d([+-]\d{4})?)?)?)?")


@click.command("verify")
@click.argument("collection", required=False, shell_complete=complete_collections)
@click.option("--from", "first", metavar="D", help="First partition key, for example 2026-01-01.")
@click.option("--to", "last", metavar="D", help="Last partition key, inclusive.")
@click.option("--counts", is_flag=True, help="Also ask the service how many events there are now, of neighbours in sum.")
@click.option("--repair", "mend", is_flag=True, help="Extract again what is wrong, and wait for it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(collection: str | None, first: str | None, last: str | None, counts: bool, mend: bool, as_json: bool) -> None:
    """Read what has landed again: length, SHA-256 and events against ledger and manifest; name what differs, is gone or too many.

    Files too many are looked for unless --from or --to is given; they are never removed.

    Example: keen-pipeline verify purchases --from 2026-11-01 --to 2026-11-30 --counts
    """
    settings, wanted = Settings.from_environment(), _range(first, last)
    known = configured_collections(settings)
    with service_for_command(settings):
        pipeline = open_pipeline(settings)
        names = _names(pipeline, collection, [c.name for c in known])
        landed = landed_of(pipeline.ledger, names, wanted)
        found = _verify(pipeline, names, landed, wanted, counts)
        wrong = [one for one in found if one.problem is not None]
        mended: set[int] = set()
        if mend and any(one.entry is not None for one in wrong):
            total = len(to_repair(pipeline, wrong, known))
            _, failed = follow(repair(pipeline, wrong, known), total, "repair")
            broken = {entry.request.place: why for entry, why in failed}
            wrong = [replace(one, problem=_with_reason(one, broken)) for one in wrong]
            mended = {id(one) for one in wrong if one.entry is not None and one.entry.request.place not in broken}
    document = {
        "checked": len(found),
        "ok": len(found) - len(wrong),
        "wrong": [_row(one, id(one) in mended, mend) for one in wrong],
    }
    if as_json:
        print_json(document)
    else:
        _tell(document, wrong, mended)
    left = [one for one in wrong if id(one) not in mended]
    if left:
        more = "; --repair extracts again what is wrong" if not mend and any(one.entry is not None for one in left) else ""
        raise VerificationError(f"{len(left)} of {len(found)} files are not as they landed{more}")


def _range(first: str | None, last: str | None) -> Range:
    for option, key in (("--from", first), ("--to", last)):
        if key is not None and not _KEY.fullmatch(key):
            raise click.UsageError(f"{option} {key!r} isn't a partition key such as 2026-01-01")
    if first is not None and last is not None and last < first[: len(last)]:
        raise click.UsageError(f"--to {last} is before --from {first}")
    return Range(first, last)


def _names(pipeline: Pipeline, collection: str | None, configured: Sequence[str]) -> list[str]:
    known = sorted({*configured, *pipeline.ledger.landed_collections()})
    if collection is None:
        return known
    if collection not in known:
        there = few(known, ", ") or "none"
        raise InvalidInputError(f"{collection!r} is neither configured nor has it landed; there are: {there}")
    return [collection]


def _verify(pipeline: Pipeline, names: Sequence[str], landed: Sequence[Entry], wanted: Range, counts: bool) -> list[Verified]:
    found: list[Verified] = []
    with progress_bar() as bar:
        task = bar.add_task("verify", total=len(landed))
        try:
            for one in verify(pipeline, landed, counts=counts):
                found.append(one)
                bar.update(task, completed=len(found))
        except KeyboardInterrupt:
            _tell_where_to_go_on(found, landed, wanted.last)
            raise
        if wanted.is_everything:
            bar.update(task, description="files too many")
            found += strangers(pipeline, names)
    return found


def _tell_where_to_go_on(found: Sequence[Verified], landed: Sequence[Entry], last: str | None) -> None:
    """What was wrong so far, and the commands that look at the rest."""
    for one in [one for one in found if one.problem is not None][:MOST_SHOWN]:
        console.print(f"{one.collection} {one.partition or ''}: {one.problem}")
    seen = {one.entry.entry_id for one in found if one.entry is not None}
    first: dict[str, str] = {}
    for entry in landed:
        if entry.is_partition and entry.entry_id not in seen:
            first.setdefault(entry.request.collection, entry.request.partition_key)
    console.print(f"{len(found)} of {len(landed)} files verified; the rest:")
    for name, key in list(first.items())[:MOST_SHOWN]:
        options = ("--from", key, *(("--to", last) if last else ()))
        console.print(f"  {command_line('verify', name, options=options)}")


def _with_reason(one: Verified, broken: Mapping[tuple[str, str], str]) -> str:
    """What is wrong with a file, and why it couldn't be repaired."""
    why = broken.get(one.entry.request.place) if one.entry is not None else None
    return f"{one.problem}; it could not be repaired: {why}" if why else str(one.problem)


def _row(one: Verified, is_mended: bool, mend: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"collection": one.collection, "partition": one.partition, "uri": one.uri, "problem": one.problem}
    return row | {"repaired": is_mended} if mend else row


def _tell(document: dict[str, Any], wrong: Sequence[Verified], mended: set[int]) -> None:
    for one in wrong[:MOST_SHOWN]:
        show(f"{one.collection} {one.partition or ''}: {one.problem}" + (" (repaired)" if id(one) in mended else ""))
        show(f"  {shown(one.uri)}")
    if len(wrong) > MOST_SHOWN:
        show(f"and {len(wrong) - MOST_SHOWN} more (--json lists all)")
    show(f"{document['checked']} files verified, {document['ok']} as they landed")
