"""`keen-pipeline ledger upgrade`: the second half of a rolling deploy."""

from __future__ import annotations

import click

from keen_pipeline.cli.common import show
from keen_pipeline.ledger import open_engine
from keen_pipeline.ledger.migrate import CONTRACT_COMMAND, ledger_version
from keen_pipeline.settings import Settings


@click.group("ledger")
def command() -> None:
    """The ledger's tables.

    Example: keen-pipeline ledger upgrade --contract
    """


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
