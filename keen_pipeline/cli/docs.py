"""`keen-pipeline docs`: the pages of the package, in the terminal."""

from __future__ import annotations

import sys
from importlib import resources
from importlib.resources.abc import Traversable

import click
from click.shell_completion import CompletionItem

_SUFFIX = ".md"
# As a newcomer would read them.
_ORDER = (
    "first-hour",
    "dagster",
    "reading",
    "checks",
    "destinations",
    "command-line",
    "settings",
    "production",
    "service",
    "troubleshooting",
    "how-it-works",
)


def pages() -> dict[str, Traversable]:
    """The pages by name, those without a place in the order last."""
    found = {
        f.name.removesuffix(_SUFFIX): f for f in (resources.files("keen_pipeline") / "docs").iterdir() if f.name.endswith(_SUFFIX)
    }
    return {name: found[name] for name in sorted(found, key=lambda name: (_order(name), name))}


def _order(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in pages() if name.startswith(incomplete)]


@click.command("docs")
@click.argument("page", required=False, shell_complete=_complete)
def command(page: str | None) -> None:
    """Show a PAGE of the documentation; without one, list the pages.

    In a pipe or a file it is Markdown, as it is written.

    Example: keen-pipeline docs first-hour
    """
    known = pages()
    if page is None:
        width = max(map(len, known))
        for name, file in known.items():
            click.echo(f"{name:{width}}  {_title(file)}")
        return
    if page not in known:
        raise click.UsageError(f"there is no page {page!r}; the pages are {', '.join(known)}")
    text = known[page].read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def _title(file: Traversable) -> str:
    return file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
