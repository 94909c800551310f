"""`keen-pipeline docs` and `keen-pipeline deployment`: the pages and the deployment profiles that come with the package."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click
from rich.table import Table

import keen_pipeline
from keen_pipeline.cli.common import show
from keen_pipeline.errors import ConfigurationError

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


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


@click.command("docs")
@click.argument("page", required=False, metavar="[PAGE]", type=click.Choice(_ORDER))
def command(page: str | None) -> None:
    """Show a PAGE of the documentation; without one, list the pages.

    In a pipe or a file it is Markdown, as it is written.

    Example: keen-pipeline docs first-hour
    """
    known = pages()
    if page is None:
        width = max(map(len, known))
        for name, path in known.items():
            click.echo(f"{name:{width}}  {_title(path)}")
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
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder to copy it to; made where missing.")
def deployment(profile: str | None, folder: Path | None) -> None:
    """List the deployment profiles, show the page of PROFILE, or copy its files.

    Nothing that is there already is overwritten: then nothing is copied.

    Example: keen-pipeline deployment celery --to ./deploy
    """
    known = profiles()
    if profile is None:
        if folder is not None:
            raise click.UsageError(f"--to needs a PROFILE: {', '.join(known)}")
        table = Table("profile", "what", title=f"In {PROFILES}", title_justify="left")
        for name, page in known.items():
            table.add_row(name, _title(page))
        show(table)
    elif folder is None:
        click.echo(known[profile].read_text(encoding="utf-8"), nl=False)
    else:
        for path in copy(known[profile].parent, folder):
            click.echo(path)


def copy(source: Path, folder: Path) -> list[Path]:
    """Copies the files of a profile; answers where they are. Raises ConfigurationError where one is there already or can't be."""
    files = sorted(path for path in source.iterdir() if path.is_file())
    present = [folder / path.name for path in files if (folder / path.name).exists()]
    if present:
        raise ConfigurationError(f"{present[0]} is there already; nothing was copied: name another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(path, folder / path.name)) for path in files]
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be written: {error.strerror}") from None
