"""`keen-pipeline deployment`: the deployment profiles that come with the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
from click.shell_completion import CompletionItem
from rich.table import Table

import keen_pipeline
from keen_pipeline.cli.common import show
from keen_pipeline.errors import ConfigurationError

PROFILES = Path(keen_pipeline.__file__).parent / "deployment"


def profiles() -> dict[str, str]:
    """By the folder's name the title of its page."""
    pages = sorted(PROFILES.glob("*/README.md"))
    return {page.parent.name: page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in pages}


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=title) for name, title in profiles().items() if name.startswith(incomplete)]


@click.command("deployment")
@click.argument("profile", required=False, shell_complete=_complete)
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder to copy it to; made where missing.")
def command(profile: str | None, folder: Path | None) -> None:
    """List the deployment profiles, show the page of PROFILE, or copy its files.

    Nothing that is there already is overwritten: then nothing is copied.

    Example: keen-pipeline deployment celery --to ./deploy
    """
    known = profiles()
    if profile is None:
        if folder is not None:
            raise click.UsageError(f"--to needs a PROFILE: {', '.join(known)}")
        table = Table("profile", "what", title=f"In {PROFILES}", title_justify="left")
        for name, title in known.items():
            table.add_row(name, title)
        show(table)
        return
    if profile not in known:
        raise click.UsageError(f"there is no profile {profile!r}; there are {', '.join(known)}")
    source = PROFILES / profile
    if folder is None:
        click.echo((source / "README.md").read_text(encoding="utf-8"), nl=False)
        return
    for path in copy(source, folder):
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
