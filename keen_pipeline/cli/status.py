"""`keen-pipeline status`: one row a collection, what is waited for and why, and the command that fixes it.

`keen-pipeline retry` and `keen-pipeline cancel`: a person's word on what is given up or open.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click
from rich.table import Table

from keen_pipeline.cli.common import (
    as_usage,
    complete_collections,
    configured,
    configured_collections,
    console,
    other_scopes,
    print_json,
    show,
)
from keen_pipeline.collection import Collection
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.ledger.scopes import ScopeSummary
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import latest_partition, partition_for_key
from keen_pipeline.pipeline import partition_request
from keen_pipeline.pipeline.extractions.explain import Waiting, explain_all, in_few_lines
from keen_pipeline.pipeline.freshness import Coverage, coverage
from keen_pipeline.pipeline.requests import check_mask_key, lacks_mask_key
from keen_pipeline.pipeline.told import MOST_NAMED, backfill_command, by_cause, command_line, few, shortened
from keen_pipeline.scope import Scope
from keen_pipeline.settings import Settings
from keen_pipeline.timeframe import format_instant
from keen_pipeline.wiring import limits_of, open_ledger, scope_of


@click.command("status")
@click.argument("collection", required=False, shell_complete=complete_collections)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def command(collection: str | None, as_json: bool) -> None:
    """Show for each collection what has landed, what is missing, what is waited for and why.

    Example: keen-pipeline status purchases --json
    """
    settings = Settings.from_environment()
    chosen = configured_collections(settings) if collection is None else configured(settings, [collection])
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    now = ledger.clock.now()
    open_ = ledger.open_entries()
    waiting = explain_all(ledger, open_, limits_of(settings))
    rows = [(c, coverage(ledger, c, now, mask_key=settings.mask_key)) for c in chosen]
    others = other_scopes(ledger)
    left = _not_configured(ledger, open_, {c.name for c in chosen}) if collection is None else []
    if as_json:
        document = {
            "collections": [_row_json(c, found, open_, waiting) for c, found in rows],
            "not_configured": [
                {"collection": name, "landed": landed, "open": [_open_json(e, waiting) for e in still]}
                for name, landed, still in left
            ],
            "scope": str(ledger.scope),
            "other_scopes": [{"scope": str(one.scope), "landed": one.landed, "open": one.open} for one in others],
            "orphans": ledger.orphans(),
        }
        print_json(document)
        return
    openly = Counter(entry.request.collection for entry in open_)
    table = Table()
    for title in ("collection", "landed", "newest", "to extract", "open", "given up"):
        table.add_column(title, overflow="fold")  # a phone's terminal cuts nothing off
    for one, found in rows:
        counts = (len(found.gaps) + len(found.outdated), openly[one.name], len(found.given_up))
        table.add_row(one.name, f"{found.landed} of {found.due}", found.newest or "-", *map(str, counts))
    show(f"{ledger.scope}", table)
    if not rows:
        show("no collection is configured: keen-pipeline init --from-project")
    for one, found in rows:
        if lacks_mask_key(one, settings.mask_key):
            show(f"{one.name}: KEEN_PIPELINE_MASK_KEY isn't set here, so nobody can tell whether its files are up to date")
        _details(one, found, [e for e in open_ if e.request.collection == one.name], waiting)
    new = [c for c, found in rows if found.due and not (found.landed or found.given_up or openly[c.name])]
    if new and (newest := latest_partition(new[0], now)) is not None:
        show(f"nothing has landed yet of {few([c.name for c in new], ', ')}: the nightly job lands the last days; to land some now")
        show(f"  {backfill_command(new[0].name, [newest.key])}")
    for name, landed, still in left:
        if still:
            show(f"{name} is not configured, and {len(still)} of it are open: {command_line('cancel', name)}")
        if landed:
            show(f"{name} is not configured; its {landed} landed files stay as they are: {command_line('verify', name)}")
    _tell_of(others, ledger.scope, has_landed=any(found.landed for _, found in rows))


def _tell_of(others: Sequence[ScopeSummary], mine: Scope, *, has_landed: bool) -> None:
    for other in others[:MOST_NAMED]:
        show(f"this ledger also holds {other.landed} landed and {other.open} open of {other.scope}")
        if replace(other.scope, destination=mine.destination) != mine:
            continue
        if other.landed and not has_landed:
            show("  if its files were moved here: keen-pipeline ledger rebuild")
        if other.open:  # such as of an `extract` that was killed
            show(f"  what is open there: KEEN_PIPELINE_DESTINATION={shlex.quote(other.scope.destination)} keen-pipeline status")
    if len(others) > MOST_NAMED:
        show(f"and of {len(others) - MOST_NAMED} other destinations, projects or definitions (--json lists all)")


def _not_configured(ledger: SqlLedger, open_: Sequence[Entry], names: set[str]) -> list[tuple[str, int, list[Entry]]]:
    """Collections beside those of `names`: how many of its files have landed, and what of it is open."""
    known = {*(e.request.collection for e in open_), *ledger.landed_collections()}
    return [
        (name, sum(state.landed for state in ledger.partitions(name)), [e for e in open_ if e.request.collection == name])
        for name in sorted(known - names)
    ]


def _row_json(collection: Collection, found: Coverage, open_: Sequence[Entry], waiting: dict[int, Waiting]) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "landed": found.landed,
        "due": found.due,
        "newest": found.newest,
        "gaps": list(found.gaps),
        "outdated": list(found.outdated),
        "strays": list(found.strays),
        "open": [_open_json(e, waiting) for e in open_ if e.request.collection == collection.name],
        "given_up": [{"partition": s.key, "status": s.status.value, "error": s.error} for s in found.given_up],
    }


def _open_json(entry: Entry, waiting: dict[int, Waiting]) -> dict[str, Any]:
    why = waiting[entry.entry_id]
    return {
        "partition": entry.request.partition_key,
        "kind": entry.request.kind.value,
        "status": entry.status.value,
        "attempt": entry.attempt,
        "extraction_id": entry.extraction_id,
        "waiting": why.why,
        "since": format_instant(why.since),
        "until": format_instant(why.until) if why.until is not None else None,
    }


def _details(collection: Collection, found: Coverage, open_: Sequence[Entry], waiting: dict[int, Waiting]) -> None:
    for line in in_few_lines(open_, waiting):
        show(f"{collection.name} waits: {line}")
    for what, keys in (("lacks ", found.gaps), ("has files that another configuration made, ", found.outdated)):
        if keys:
            show(f"{collection.name} {what}{few(keys, ', ')}: {backfill_command(collection.name, keys)}")
    if found.strays:
        show(
            f"{collection.name} has files of partitions that its configuration doesn't have any more, {few(found.strays, ', ')}: "
            "nothing reads or replaces them, but whoever reads the whole folder counts their events too"
        )
    for status in dict.fromkeys(state.status for state in found.given_up):
        ended = [(collection.name, s.key, s.error or "no reason was noted", "retry") for s in found.given_up if s.status is status]
        groups = by_cause(ended)
        for group in groups[:MOST_NAMED]:
            show(f"{collection.name} {status.value}: {few(group.keys)}: {shortened(group.reason)}", f"  {group.command}")
        if len(groups) > MOST_NAMED:
            show(f"and {len(groups) - MOST_NAMED} other reasons (--json lists all)")


@click.command("retry")
@click.argument("collection", shell_complete=complete_collections)
@click.argument("partitions", nargs=-1, required=True, metavar="PARTITION...")
def retry(collection: str, partitions: tuple[str, ...]) -> None:
    """Ask again for partitions that were given up or cancelled; what waits for a back-off is due at once.

    The status sensor, or `keen-pipeline backfill`, submits and lands them.

    Example: keen-pipeline retry purchases 2026-11-01 2026-11-02
    """
    settings = Settings.from_environment()
    (chosen,) = configured(settings, [collection])
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    with as_usage():
        wanted = [partition_for_key(chosen, key, ledger.clock.now()) for key in dict.fromkeys(partitions)]
    # By the newest attempt: what was given up may have an older file, which alone is no reason to refuse.
    states = {state.key: state.status for state in ledger.partitions(collection)}
    landed = sorted(p.key for p in wanted if states.get(p.key) is Status.LANDED)
    if landed:
        # Each by itself: from the first to the last, all between them would be extracted too.
        again = [f"  {backfill_command(collection, [key], '--force')}" for key in landed[:MOST_NAMED]]
        told = "\n".join([f"{collection} {few(landed)}: landed already; to extract it again:", *again])
        if len(landed) == len(wanted):
            raise InvalidInputError(told)
        # Of those in a mail some may have landed since: that keeps no other from its retry.
        console.print(told, style="yellow")
    requests = [partition_request(chosen, p, mask_key=settings.mask_key) for p in wanted if p.key not in landed]
    check_mask_key(requests, settings.mask_key)
    ledger.due_now([e.entry_id for e in ledger.current(requests) if e is not None and not e.status.is_terminal])
    asked = ledger.request(requests, keep=lambda _: False, waits=False)
    made = sum(one.created for one in asked)
    show(f"{made} asked for again, {len(asked) - made} already open and due now; the status sensor carries on with them")


@click.command("cancel")
@click.argument("collection", shell_complete=complete_collections)
@click.argument("partitions", nargs=-1, metavar="[PARTITION...]")
def cancel(collection: str, partitions: tuple[str, ...]) -> None:
    """Cancel open extractions of COLLECTION, all of them or those of some partitions; the nightly job leaves these alone then.

    Example: keen-pipeline cancel purchases 2026-11-01
    """
    settings = Settings.from_environment()
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    open_ = {
        e.request.partition_key: e for e in ledger.open_entries() if e.request.collection == collection and e.parent_id is None
    }
    missing = [key for key in partitions if key not in open_]
    if missing:
        there = few(sorted(open_), ", ") or "nothing"
        raise InvalidInputError(f"{collection}: {few(missing, ', ')} is not open; open is {there}")
    if not open_:
        of = few(sorted({e.request.collection for e in ledger.open_entries()}), ", ")
        raise InvalidInputError(f"{collection}: nothing is open" + (f"; there is something open of {of}" if of else ""))
    chosen = [open_[key].entry_id for key in partitions or open_]
    cancelled = ledger.cancel(chosen, "cancelled by `keen-pipeline cancel`")
    show(f"{len(cancelled)} cancelled; `keen-pipeline retry` asks for them again")
