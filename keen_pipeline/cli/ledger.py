"""`keen-pipeline ledger upgrade`: the second half of a rolling deploy."""

from __future__ import annotations

from datetime import timedelta

import click

from keen_pipeline.cli.common import show
from keen_pipeline.ledger import open_engine
from keen_pipeline.ledger.migrate import CONTRACT_COMMAND, ledger_version
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_ledger, scope_of


@click.group("ledger")
def command() -> None:
    """The ledger's tables.

    Example: keen-pipeline ledger upgrade --contract
    """


@command.command("prune")
@click.option(
    "--older-than", "days", type=click.IntRange(1, 36_500), required=True, metavar="DAYS", help="Since they were asked for."
)
def prune(days: int) -> None:
    """Forget attempts that mean nothing any more; what is open, landed or the last word on a partition stays.

    Example: keen-pipeline ledger prune --older-than 90
    """
    settings = Settings.from_environment()
    ledger = open_ledger(settings.ledger_url, scope_of(settings))
    show(f"{ledger.prune(ledger.clock.now() - timedelta(days=days))} old attempts forgotten")


@command.command("upgrade")
@click.option("--contract", is_flag=True, help="Take away what only older releases need; none of their processes runs any more.")
def upgrade(contract: bool) -> None:
    """Bring the ledger's tables to this release.

    Every process adds by itself what this release needs, and an older one goes on beside it. What only older releases need is
    taken away by --contract alone: run it once the last of their processes has ended.

    Example: keen-pipeline ledger upgrade --contract
    """
    engine = open_engine(Settings.from_environment().ledger_url, contract=contract)
    try:
        version = ledger_version(engine)
    finally:
        engine.dispose()
    show(f"ledger: revision {version.revision}, serves keen_pipeline from revision {version.oldest_code} on")
    if version.waiting:
        show(f"revision {', '.join(version.waiting)} waits until no older release runs: {CONTRACT_COMMAND}")
