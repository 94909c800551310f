"""Names of tables and columns, and URLs that name no database."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from keen_pipeline import Collection, TableDatabase, build_keen_definitions, table_asset, unique_values_asset
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.tables import place_of_url
from keen_pipeline.tables.load import _reason
from keen_pipeline.tables.names import column_name, column_names

Query = Callable[[str], list[tuple[Any, ...]]]


def test_a_url_that_is_none_and_a_missing_driver_are_plain_errors(tmp_path: Path) -> None:
    for wrong, words in (
        ("no url", "SQLAlchemy URL"),
        ("postgresql://u:p@h:secret@h/d", "SQLAlchemy URL"),
        ("postgresql://u:p@secret@h/d", "SQLAlchemy URL"),
        ("nothing://u:secret@h/d", "no driver"),
        ("sqlite://", "one in memory"),
        (f"sqlite:///{tmp_path}/none/w.db", "does not exist"),
    ):
        with pytest.raises(ConfigurationError, match=words) as raised:
            place_of_url(wrong)
        assert "secret" not in str(raised.value)


def test_a_password_is_never_shown() -> None:
    database = TableDatabase(url="postgresql://u:secret@h/d")
    assert "secret" not in repr(database) + str(database) + repr(database.open())
    for wrong in ({}, {"url": "sqlite:///w.db", "destination": "duckdb"}):
        with pytest.raises(ValueError, match="either url or destination"):
            TableDatabase(**wrong)


def test_a_databases_words_have_a_bound_and_are_those_of_the_cause() -> None:
    error = RuntimeError("the load failed")
    error.__cause__ = ValueError("x" * 5000 + "\nDETAIL: (ada@example.com)")
    assert _reason(error) == "x" * 300
    assert _reason(ValueError("no such column")) == "no such column"


@pytest.mark.parametrize("wrong", ["Sign Ups", "a" * 64, "", "Events", "keen_x", "a__b", "naïve", 'x"; DROP TABLE y'])
def test_a_table_name_that_is_none_is_refused_with_one_that_is(wrong: str) -> None:
    with pytest.raises(InvalidInputError, match="can't be a table's name") as raised:
        table_asset(Collection("visits", "2026-01-01"), table=wrong)
    offered = str(raised.value).rsplit("'", 2)[1]
    assert table_asset(Collection("visits", "2026-01-01"), table=offered).key.path == ["keen_tables", offered]


def test_tables_and_lists_of_two_projects_lie_side_by_side() -> None:
    purchases, names = Collection("purchases", "2026-01-01"), ("keen", "shop", "app")
    theirs = [table_asset(purchases, definitions=name) for name in names]
    theirs += [unique_values_asset(purchases, "body:currency", name=name) for name in names]
    defs = dg.Definitions.merge(
        *(build_keen_definitions([purchases], name=name) for name in names),
        dg.Definitions(assets=theirs, resources={"keen_database": TableDatabase(url="sqlite:///warehouse.db")}),
    )
    keys = {key.to_user_string() for key in defs.get_repository_def().asset_graph.materializable_asset_keys}
    assert len(keys) == 9
    assert {"keen_tables/purchases", "shop_tables/purchases", "app_tables/purchases"} < keys


def test_collections_of_other_names_have_tables_of_their_own() -> None:
    names = ["Sign Ups", "sign_ups", "Sign-Ups", "x" * 200, "x" * 201]
    tables = [table_asset(Collection(name, "2026-01-01")).key.path[-1] for name in names]
    assert len({*tables}) == len(names)
    assert max(len(table) for table in tables) <= 63
    with pytest.raises(InvalidInputError, match="can't be decimal, only num"):
        table_asset(Collection("visits", "2026-01-01"), types={"body:n": "decimal"})


def test_each_property_has_a_column_of_its_own() -> None:
    names = [
        "user:id",
        "user_id",
        "user__id",
        "userId",
        "UserId",
        "user-id",
        "user id",
        "user:Id",
        "user_id_2bf6c21a",
        "keen_source",
        "_dlt_id",
        "naïve",
        "naïvé",
        "",
        "1st",
        "x" * 63,
        "x" * 64,
        "x" * 65,
        "order",
        "keen_timestamp",
        r"user\:id",
    ]
    columns = column_names("visits", ["header:timestamp", "header:id", *(f"body:{name}" for name in names)])
    assert len({column.lower() for column in columns.values()}) == len(names) + 2
    assert all(re.fullmatch("[a-z][a-z0-9_]{0,62}", column) for column in columns.values())
    assert (columns["header:timestamp"], columns["body:user:id"], columns["body:order"]) == ("keen_timestamp", "user__id", "order")
    # As v3.0 calls them.
    assert column_name("keen.timestamp") == "keen_timestamp"
    assert column_name("user.id") == "user__id"
    with pytest.raises(ConfigurationError, match="another property has the column user__id already"):
        column_names("visits", ["body:user:id", "user.id"])
