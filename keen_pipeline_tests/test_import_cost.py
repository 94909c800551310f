"""What an import pulls in: the package nothing heavy, the code location nothing that only a run needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"duckdb", "pandas", "polars", "pyarrow", "boto3", "numpy", "alembic", "starlette", "uvicorn", "rich"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("statement", ["import keen_pipeline", "from keen_pipeline import Collection, Filter, Timeframe"])
def test_the_package_and_its_nouns_pull_in_nothing_heavy(statement: str) -> None:
    assert modules_after(statement) & (HEAVY | {"dagster", "sqlalchemy", "pydantic", "smart_open", "urllib3"}) == set()


def test_the_code_location_adds_nothing_that_only_a_run_needs() -> None:
    with_ours = modules_after("import keen_pipeline.definitions")
    with_dagster = modules_after("import dagster")
    assert (with_ours - with_dagster) & (HEAVY | {"sqlalchemy", "urllib3"}) == set()


def test_every_public_name_is_there() -> None:
    import keen_pipeline

    for name in keen_pipeline.__all__:
        assert getattr(keen_pipeline, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = keen_pipeline.nothing_like_it
