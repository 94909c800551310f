"""Releases of the code that don't exist: our migrations and more, or fewer of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keen_pipeline.ledger import open_engine
from keen_pipeline.ledger.database import migrate
from keen_pipeline.ledger.database.migrate import CONTRACT, EXPAND, OURS, Migrations


@dataclass(frozen=True)
class Step:
    """A migration after ours. `lines`: the body of its `upgrade`; `oldest_code`: of a contract migration."""

    lines: str
    oldest_code: str | None = None

    def text(self, revision: str, before: str) -> str:
        marks = f'phase = "{CONTRACT}"\noldest_code = "{self.oldest_code}"' if self.oldest_code else f'phase = "{EXPAND}"'
        return (
            f'import sqlalchemy as sa\nfrom alembic import op\n\nrevision = "{revision}"\ndown_revision = "{before}"\n'
            f"branch_labels = None\ndepends_on = None\n{marks}\n\n\ndef upgrade() -> None:\n    {self.lines}\n"
        )


WIDER = Step(
    'op.add_column("keen_entries", sa.Column("priority", sa.Integer(), server_default="5", nullable=False))\n'
    '    op.add_column("keen_notices", sa.Column("language", sa.Text(), nullable=True))\n'
    '    op.create_table("keen_hosts", sa.Column("name", sa.String(64), primary_key=True))'
)


def drop(column: str, oldest_code: str) -> Step:
    """A contract migration: code before `oldest_code` reads this column of the entries."""
    return Step(f'op.drop_column("keen_entries", "{column}")', oldest_code)


def next_revision(number: int = 1) -> str:
    """Of the nth migration after ours."""
    return f"{int(OURS.head) + number:04d}"


def release(folder: Path, steps: Sequence[Step] = (), *, until: str | None = None) -> Migrations:
    """The migrations of a release that has `steps` after ours, or of an older one that ends with `until`."""
    shutil.copytree(OURS.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    versions = folder / "versions"
    for path in versions.glob("[0-9]*_*.py"):
        if until is not None and path.name[:4] > until:
            path.unlink()
    for number, step in enumerate(steps, start=1):
        revision = next_revision(number)
        (versions / f"{revision}_step.py").write_text(step.text(revision, f"{int(revision) - 1:04d}"))
    return Migrations(folder)


@contextmanager
def running(migrations: Migrations) -> Iterator[None]:
    """The code of a release for the block's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "OURS", migrations)
        yield


def open_with(migrations: Migrations, url: str, *, contract: bool = False) -> sa.Engine:
    """The ledger at a URL, opened by a release."""
    with running(migrations):
        return open_engine(url, contract=contract)


def _rule(found: Mapping[str, Any]) -> str:
    conditions = {name: str(value) for name, value in found.get("dialect_options", {}).items()}
    return str(sorted((name, value) for name, value in {**found, "dialect_options": conditions}.items() if value))


@dataclass(frozen=True)
class Tables:
    """The schema as it is in a database: (type, nullable, default) by table and column; what is unique by table; all indexes."""

    columns: dict[str, dict[str, tuple[str, bool, str | None]]]
    unique: dict[str, set[str]]
    indexes: frozenset[str | None] = frozenset()

    @classmethod
    def of(cls, connection: sa.Connection) -> Tables:
        """Of our tables."""
        inspector = sa.inspect(connection)
        names = [name for name in inspector.get_table_names() if name.startswith("keen_")]
        columns = {
            name: {str(c["name"]): (str(c["type"]), bool(c["nullable"]), c["default"]) for c in inspector.get_columns(name)}
            for name in names
        }
        unique = {
            name: {_rule(i) for i in inspector.get_indexes(name) if i["unique"]}
            | {_rule(u) for u in inspector.get_unique_constraints(name)}
            | {_rule(f) for f in inspector.get_foreign_keys(name)}
            | {_rule(c) for c in inspector.get_check_constraints(name)}
            for name in names
        }
        return cls(columns, unique, frozenset(index["name"] for name in names for index in inspector.get_indexes(name)))

    def broken_by(self, after: Tables) -> list[str]:
        """What `after` has that a statement written for these tables could fail on."""
        problems = [f"{table} is gone" for table in self.columns if table not in after.columns]
        for table, columns in self.columns.items():
            now = after.columns.get(table, {})
            for name, (kind, nullable, default) in columns.items():
                if table in after.columns and name not in now:
                    problems.append(f"{table}.{name} is gone")
                elif name in now and now[name][0] != kind:
                    problems.append(f"{table}.{name} was {kind}, is {now[name][0]}")
                elif name in now and nullable and not now[name][1]:
                    problems.append(f"{table}.{name} takes no null any more")
                elif name in now and default is not None and now[name][2] != default:
                    problems.append(f"{table}.{name} has another default")
            problems += [
                f"{table}.{name} is new and an INSERT without it fails"
                for name, (_, nullable, default) in now.items()
                if name not in columns and not nullable and default is None
            ]
            problems += [f"{table}: {rule} is new" for rule in after.unique.get(table, set()) - self.unique[table]]
        return problems
