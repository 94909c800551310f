"""`keen-pipeline docs` and `keen-pipeline deployment`: the pages and the deployment profiles that come with the package."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import keen_pipeline
from keen_pipeline.cli.common import copy_files

PAGES = Path(keen_pipeline.__file__).parent / "docs"
PROFILES = Path(keen_pipeline.__file__).parent / "deployment"
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


def pages() -> dict[str, Path]:
    """The pages of the documentation by name, in the order of reading."""
    return {name: PAGES / f"{name}.md" for name in _ORDER}


def profiles() -> dict[str, Path]:
    """The page of each deployment profile, by the profile's name."""
    return {page.parent.name: page for page in sorted(PROFILES.glob("*/README.md"))}


def _list(known: dict[str, Path]) -> None:
    width = max(map(len, known))
    for name, page in known.items():
        click.echo(f"{name:{width}}  {page.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")


@click.command("docs")
@click.argument("page", required=False, metavar="[PAGE]", type=click.Choice(_ORDER))
def command(page: str | None) -> None:
    """Show a PAGE of the documentation; without one, list the pages.

    In a pipe or a file it is Markdown, as it is written.

    Example: keen-pipeline docs first-hour
    """
    known = pages()
    if page is None:
        _list(known)
        return
    text = known[page].read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


@click.command("deployment")
@click.argument("profile", required=False, metavar="[PROFILE]", type=click.Choice(list(profiles())))
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder to copy it to; made if missing.")
def deployment(profile: str | None, folder: Path | None) -> None:
    """List the deployment profiles, show the page of PROFILE, or copy its files.

    A file that is there with another content is left alone: then nothing is copied.

    Example: keen-pipeline deployment celery --to ./deploy
    """
    known = profiles()
    if profile is None:
        if folder is not None:
            raise click.UsageError(f"--to needs a PROFILE: {', '.join(known)}")
        click.echo(f"In {PROFILES}:")
        _list(known)
    elif folder is None:
        click.echo(known[profile].read_text(encoding="utf-8"), nl=False)
    else:
        copy_files(sorted(path for path in known[profile].parent.iterdir() if path.is_file()), folder)
