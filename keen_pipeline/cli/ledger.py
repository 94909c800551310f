"""`keen-pipeline ledger`: made anew from manifests, pruned, upgraded."""

from __future__ import annotations

from datetime import timedelta

import click

from keen_pipeline.cli.common import console, print_json, show
from keen_pipeline.ledger import open_engine
from keen_pipeline.ledger.migrate import CONTRACT_COMMAND, ledger_version
from keen_pipeline.settings import Settings
from keen_pipeline.wiring import open_destination, open_ledger, scope_of


@click.group("ledger")
def command() -> None:
    """The ledger: make a lost one anew, forget old attempts, finish an upgrade.

    Example: keen-pipeline ledger rebuild
    """


@command.command("rebuild")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def rebuild(as_json: bool) -> None:
    """Make a lost ledger anew from the manifests at the destination.

    What has landed is neither asked for nor told to Dagster again. What the ledger holds already stays as it is, so this can be
    repeated; it also takes over files that were copied from another destination.

    Example: keen-pipeline ledger rebuild
    """
    from keen_pipeline.pipeline.rebuild import rebuild as take_over  # the pipeline, for this command alone

    settings = Settings.from_environment()
    destination = open_destination(settings.destination, settings.destination_options)
    done = take_over(open_ledger(settings.ledger_url, scope_of(settings, destination.uri)), destination)
    if as_json:
        left = [{"uri": uri, "problem": problem} for uri, problem in done.problems]
        print_json({"restored": len(done.restored), "known": done.known, "others": done.others, "left_out": left})
        return
    for uri, problem in done.problems:
        console.print(f"left out: {uri}: {problem}", style="yellow")
    of_others = f", {done.others} of other projects or definitions left alone" if done.others else ""
    show(f"{len(done.restored)} landings restored, {done.known} known before{of_others}")


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
