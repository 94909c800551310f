"""`keen-pipeline retry` and `keen-pipeline cancel`: a person's word on what is given up or open."""

from __future__ import annotations

import click

from keen_pipeline.cli.common import complete_collections, configured, show
from keen_pipeline.collection import Collection
from keen_pipeline.errors import InvalidInputError
from keen_pipeline.extraction import ExtractionRequest, Status
from keen_pipeline.ledger import SqlLedger
from keen_pipeline.lifecycle import Entry
from keen_pipeline.partitions import partition_for_key
from keen_pipeline.pipeline import partition_request
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_ledger, scope_of

_ENDED = (Status.ABANDONED, Status.CANCELLED, Status.FAILED)


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
    requests = _requests(ledger, chosen, partitions, settings.mask_key)
    found = ledger.current(requests)
    wrong = [_stands(key, e) for key, e in zip(partitions, found, strict=True) if e is not None and e.status is Status.LANDED]
    if wrong:
        raise InvalidInputError(f"{collection}: {'; '.join(wrong)}; `keen-pipeline backfill --force` extracts it again")
    ledger.due_now([e.entry_id for e in found if e is not None and not e.status.is_terminal])
    asked = ledger.request(requests)
    made = sum(one.created for one in asked)
    show(f"{made} asked for again, {len(asked) - made} open before and due now; the status sensor goes on with them")


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
        there = ", ".join(sorted(open_)) or "nothing"
        raise InvalidInputError(f"{collection}: {', '.join(missing)} is not open; open is {there}")
    if not open_:
        raise InvalidInputError(f"{collection}: nothing is open")
    chosen = [open_[key].entry_id for key in partitions or open_]
    cancelled = ledger.cancel(chosen, "cancelled by `keen-pipeline cancel`")
    show(f"{len(cancelled)} cancelled; `keen-pipeline retry` asks for them again")


def _requests(ledger: SqlLedger, collection: Collection, keys: tuple[str, ...], mask_key: bytes | None) -> list[ExtractionRequest]:
    now = ledger.clock.now()
    return [
        partition_request(collection, partition_for_key(collection, key, now), mask_key=mask_key) for key in dict.fromkeys(keys)
    ]


def _stands(key: str, entry: Entry) -> str:
    return f"{key} has {entry.status.value}"
