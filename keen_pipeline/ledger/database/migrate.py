"""The ledger's revisions, so that two releases can run at once: expand, then contract.

A migration says in its file which of the two it is. With `phase = "expand"` it only adds: code of the revision before goes on
reading and writing, so the first process of a new release applies it. With `phase = "contract"` it takes away what only code
before its `oldest_code` needs: a person applies it once such processes are gone, and until then code of its own revision does
without. The ledger notes the oldest code it serves, for the older code that meets it later.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import sqlalchemy as sa

from keen_pipeline.errors import LedgerVersionError
from keen_pipeline.ledger.database.tables import compatibility
from keen_pipeline.ledger.database.transactions import read_only

VERSION_TABLE = "keen_ledger_version"
EXPAND, CONTRACT = "expand", "contract"
CONTRACT_COMMAND = "keen-pipeline ledger upgrade --contract"
# An arbitrary constant: PostgreSQL's advisory lock for our migrations.
_ADVISORY_LOCK = 0x6B65656E
_NAME_CHARACTERS = 4


@dataclass(frozen=True)
class Migrations:
    """The revisions that a release of the code knows: files `NNNN_name.py` below `folder`/versions, in their order."""

    folder: Path

    @property
    def known(self) -> list[str]:
        """Oldest first; told by the files' names, as Alembic costs a quarter second to import and is seldom needed."""
        return sorted(path.name[:_NAME_CHARACTERS] for path in (self.folder / "versions").glob("[0-9]*_*.py"))

    @property
    def head(self) -> str:
        """The revision this code was written for."""
        return self.known[-1]


OURS = Migrations(Path(__file__).parent / "migrations")


@dataclass(frozen=True)
class LedgerVersion:
    """`revision`: of the tables. `oldest_code`: the oldest code they serve. `waiting`: contract migrations left to a person."""

    revision: str
    oldest_code: str
    waiting: tuple[str, ...]


def current_revision(connection: sa.Connection) -> str | None:
    """The revision written in the ledger, None in an empty database."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608


def ledger_version(engine: sa.Engine) -> LedgerVersion:
    """Of a ledger that is migrated."""
    with engine.connect() as connection:
        revision, oldest = current_revision(connection), _oldest_code(connection)
    assert revision is not None
    assert oldest is not None
    known = OURS.known
    return LedgerVersion(revision, oldest, tuple(known[known.index(revision) + 1 :]) if revision in known else ())


def migrate(engine: sa.Engine, *, contract: bool = False) -> None:
    """Bring the ledger to this code's revision under a lock, so that processes which start together don't migrate twice.

    Contract migrations wait until somebody calls it with `contract`; a new ledger has all of them. A ledger that a newer
    release has expanded is left as it is.

    Raises LedgerVersionError, with nothing changed, if the ledger no longer serves this code, or if this code needs
    what stands behind a contract migration.
    """
    with read_only(engine) as connection:
        if _is_settled(connection):
            return
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        if not _is_settled(connection):
            _upgrade(connection, current_revision(connection), contract)


def _is_settled(connection: sa.Connection) -> bool:
    """Whether there is nothing that this code could migrate."""
    revision, known = current_revision(connection), OURS.known
    if revision is None or revision in known:
        return revision == known[-1]
    if revision < known[0]:
        raise LedgerVersionError(
            f"the ledger is at revision {revision}, from before release 0.1; open it with 0.1 first, or start a new one with "
            "`keen-pipeline ledger rebuild`; nothing was changed"
        )
    oldest = _oldest_code(connection)
    if oldest not in known:
        raise LedgerVersionError(
            f"the ledger is at revision {revision}, which this keen_pipeline (revision {known[-1]}) does not know: "
            f"it was written by a newer version and serves code from revision {oldest or 'unknown'} on; upgrade keen_pipeline, "
            "nothing was changed"
        )
    return True


def _oldest_code(connection: sa.Connection) -> str | None:
    """None if the ledger doesn't say it yet."""
    if not sa.inspect(connection).has_table(compatibility.name):
        return None
    return connection.execute(sa.select(compatibility.c.oldest_code)).scalar()


def _upgrade(connection: sa.Connection, revision: str | None, contract: bool) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(OURS.folder))
    config.attributes["connection"] = connection
    scripts, known = ScriptDirectory.from_config(config), OURS.known
    pending = [scripts.get_revision(name) for name in (known if revision is None else known[known.index(revision) + 1 :])]
    # Nobody lives on an empty ledger.
    due = pending if contract or revision is None else list(takewhile(lambda script: script.module.phase == EXPAND, pending))
    left = pending[len(due) :]
    if any(script.module.phase == EXPAND for script in left):
        names = ", ".join(script.revision for script in left)
        raise LedgerVersionError(
            f"the ledger is at revision {revision}, and this keen_pipeline needs {known[-1]}, but "
            f"{names} wait for a person, as code before revision {left[0].module.oldest_code} can't go on after them; "
            f"once none of it runs: {CONTRACT_COMMAND}; nothing was changed"
        )
    if not due:
        return
    command.upgrade(config, due[-1].revision)
    for script in due:
        if script.module.phase == CONTRACT:
            connection.execute(sa.update(compatibility).values(oldest_code=script.module.oldest_code))
