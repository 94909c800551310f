"""The project's id and keys, made once and kept in the data folder for its owner only."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service.config import ServiceConfig

FILE_NAME = "credentials.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Credentials:
    """One project: its id, its three keys, and the secret that signs results URLs. Only the id shows itself."""

    project_id: str
    read_key: str = field(repr=False)
    write_key: str = field(repr=False)
    master_key: str = field(repr=False)
    signing_key: str = field(repr=False)

    def __post_init__(self) -> None:
        if not all(isinstance(value, str) and value for value in vars(self).values()):
            raise ValueError("everybody knows an empty key")


def load_credentials(data: Path) -> Credentials | None:
    """The credentials kept in `data`, None if there are none. Raises ConfigurationError for an unreadable file."""
    path = data / FILE_NAME
    try:
        return Credentials(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise ConfigurationError(
            f"service: {path} is not readable as credentials ({type(error).__name__}); repair it, or remove it"
            " for a new project id and new keys"
        ) from None


def make_credentials(config: ServiceConfig) -> Credentials:
    """The credentials of `config`, completed from those kept in the data folder, else with new ones; then kept there."""
    kept = load_credentials(config.data)
    made = complete_credentials(config, kept)
    if made != kept:
        write_private(config.data / FILE_NAME, json.dumps(made.__dict__, indent=2) + "\n")
    return made


def complete_credentials(config: ServiceConfig, kept: Credentials | None) -> Credentials:
    """The credentials of `config`, completed from those that were kept, else with new ones. Raises ConfigurationError."""

    def pick(name: str, size: int) -> str:
        return getattr(config, name, None) or (getattr(kept, name) if kept else secrets.token_hex(size))

    made = Credentials(
        pick("project_id", 12), pick("read_key", 32), pick("write_key", 32), pick("master_key", 32), pick("signing_key", 32)
    )
    if kept is not None and made.project_id != kept.project_id:
        _log.warning(
            "events of another project are served as this one's", extra={"project": made.project_id, "other": kept.project_id}
        )
    if len({made.read_key, made.write_key, made.master_key}) < 3:
        # One key for two purposes would let a reader write; the v2.0 single-key reading is served by the master key.
        raise ConfigurationError("service: KEEN_READ_KEY, KEEN_WRITE_KEY and KEEN_MASTER_KEY must differ from each other")
    return made


def make_private(folder: Path) -> None:
    """Make a folder of the owner's alone (mode 0700), one that is there already too, unless it belongs to somebody else.

    Raises ConfigurationError if something else has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        raise ConfigurationError(
            f"service: {folder} is a file, or a link to what is not there; mount what it leads to, or choose another folder"
        ) from None
    with contextlib.suppress(PermissionError):  # a volume that the machine's owner mounted, with modes of his own choice
        folder.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, readable by its owner only (mode 0600)."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a full disk names no file
        raise
