"""The command line: each command's module is imported when it is called."""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from keen_pipeline import __version__
from keen_pipeline.errors import KeenPipelineError

# command: (module below keen_pipeline.cli, what `--help` of the group says)
_COMMANDS = {
    "demo": ("local.demo", "The whole pipeline once, headless, on sample events."),
    "dev": ("local.dev", "The Dagster UI and daemon, and the embedded service, until Ctrl-C."),
    "serve": ("local.serve", "The embedded Keen-compatible service."),
    "init": ("init", "Write a commented collections file to begin with."),
    "load": ("local.load", "Load events from files into the service."),
    "extract": ("extract", "Extract one timeframe of a collection now."),
    "list": ("extract:list_values", "The unique values of a property."),
    "backfill": ("backfill", "Land a range of partitions of configured collections."),
    "status": ("status", "What has landed, what is missing, what is waited for and why."),
    "retry": ("status:retry", "Ask again for partitions that were given up."),
    "cancel": ("status:cancel", "Cancel open extractions."),
    "verify": ("verify", "Read what has landed again, and prove it again."),
    "ledger": ("ledger", "The ledger: recreate it from manifests, prune it, upgrade it."),
    "metrics": ("ledger:metrics", "The ledger's metrics for Prometheus; a dashboard and alerts."),
    "deployment": ("docs:deployment", "Profiles for one machine and for many: list them, copy one."),
    "doctor": ("doctor", "Check the configuration and say what to fix."),
    "docs": ("docs", "The pages of the documentation, in the terminal."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        name, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        module = importlib.import_module(f"keen_pipeline.cli.{name}")
        command: click.Command = getattr(module, attribute or "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keen-pipeline")
def cli() -> None:
    """Whole, proven files of Keen event data, orchestrated by Dagster.

    Example: keen-pipeline demo
    """
    _tell_of_variables(os.environ, is_told=click.get_current_context().invoked_subcommand == "doctor")


def _tell_of_variables(env: Mapping[str, str], *, is_told: bool) -> None:
    """Name on stderr what somebody has set, and nothing here reads. `is_told`: misspelt ones are told by the command itself."""
    from keen_pipeline.settings import unknown_variables  # not for --version

    for name in () if is_told else unknown_variables(env):
        click.echo(f"{name} isn't a setting of keen_pipeline; `keen-pipeline doctor` names those that are", err=True)
    try:
        text = Path(".env").read_text(encoding="utf-8", errors="replace") if Path(".env").is_file() else ""
    except OSError:  # somebody else's
        return
    left = set(re.findall(r"(?m)^[ \t]*(?:export[ \t]+)?(KEEN_\w+)[ \t]*=[ \t]*[^\s#]", text)) - env.keys()
    if left:
        names = ", ".join(sorted(left))
        click.echo(f"{names}: set in .env, which Dagster reads and this program doesn't: set -a; . ./.env; set +a", err=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, its argument: all ends as it does on Ctrl-C, so claims are given back and what was started is stopped."""


def main() -> NoReturn:
    """Entry point: exit status 0 on success, 2 on bad usage, 1 with what failed on failure, 128 and its number on a signal."""
    _open_standard_streams()
    with _terminating():
        sys.exit(_status())


def _open_standard_streams() -> None:
    """What a caller has closed leads nowhere: else the next file that is opened, the ledger's say, would get what is printed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr does: a terminal that lacks a character is told its number
        sys.stdout.reconfigure(errors="backslashreplace")


def _status() -> int:
    try:
        # A command answers nothing; --help and --version answer their exit status.
        status = cli(standalone_mode=False, prog_name="keen-pipeline")
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as stopped:
        with suppress(OSError):  # the terminal may be gone
            click.echo("stopped", err=True)
        return 128 + next((one.args[0] for one in (stopped, stopped.__cause__) if isinstance(one, Terminated)), signal.SIGINT)
    except KeenPipelineError as error:
        from keen_pipeline.cli.common import as_called  # only a failure pays for the pipeline's import
        from keen_pipeline.pipeline.told import in_lines

        first, *more = in_lines(as_called(str(error)))
        click.echo("\n".join([f"keen-pipeline: {first}", *more]), err=True)
        return 1
    except BrokenPipeError:
        # The reader of a pipe (head, say) has seen enough.
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        # A folder that can't be made or written: what it is for stands in `docs settings`. Or the file that our output goes to.
        click.echo(f"keen-pipeline: {error.filename or 'its output'}: {error.strerror}", err=True)
        if error.filename is None:  # what is left of it is not tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) are Terminated in the main thread for the block's time; a second one changes nothing.

    What is ignored, as SIGHUP under nohup, stays ignored.
    """
    caught = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in caught if signal.getsignal(number) is not signal.SIG_IGN}

    def end(number: int, _frame: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        raise Terminated(number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
