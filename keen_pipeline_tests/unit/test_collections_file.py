"""The collections file: what it takes and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from keen_pipeline.collection import Collection, Encoding, Granularity
from keen_pipeline.collections_file import collection_to_wire, parse_collections, read_collections_file
from keen_pipeline.errors import ConfigurationError
from keen_pipeline.filters import Filter

WHOLE = """
collections:
  - name: purchases
    start_date: 2026-01-01
    filters: [{property_name: "body:amount", operator: gt, property_value: 3.5}]
    encoding: csv.gz
    granularity: hourly
    timezone: Europe/Berlin
    lookback_days: 7
    owners: ["team:data"]
    tags: {domain: sales}
  - {name: logins, start_date: "2026-02-01"}
"""


def test_yaml_and_python_give_the_same(tmp_path: Path) -> None:
    file = tmp_path / "collections.yaml"
    file.write_text(WHOLE)
    purchases, logins = read_collections_file(file)
    assert purchases == Collection(
        name="purchases",
        start_date="2026-01-01",
        filters=(Filter("body:amount", "gt", 3.5),),
        encoding=Encoding.CSV_GZ,
        granularity=Granularity.HOURLY,
        timezone="Europe/Berlin",
        lookback_days=7,
        owners=("team:data",),
        tags={"domain": "sales"},
    )
    assert logins == Collection("logins", "2026-02-01")
    assert parse_collections([collection_to_wire(logins)]) == [logins]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("collections: {}", "a list under 'collections'"),
        ("- name: a", "a list under 'collections'"),
        ("collections: [", "not YAML"),
        ("collections: []\nother: 1", "unknown 'other'"),
        ("collections: [{name: a}]\ncollections: [{name: b}]", "'collections' is listed twice.*line 2"),
        ("collections:\n- name: a\n  mask: {x: hash, y: drop, x: drop}", "'x' is listed twice.*line 3"),
        ("collections: []\nother: 1\n2: 3", "unknown 2, 'other'"),
        ("collections: [{name: a, start_date: 5}]", "start_date must be YYYY-MM-DD, not 5"),
        ("collections: [{start_date: 2026-01-01}]", "name is missing"),
        ("collections: [{name: no}]", "False isn't text; put its name in quotes"),
        ("collections: [{name: a, start_date: 2026-01-01, colour: red}]", "unknown colour"),
        ("collections: [{name: a, start_date: soon}]", "YYYY-MM-DD"),
        ("collections: [{name: a, start_date: 9999-12-31}]", "start_date must lie between 1970-01-01 and 2999-12-31"),
        ("collections: [{name: a, start_date: 0001-01-01}]", "start_date must lie between"),
        ("collections: [{name: a, start_date: 2026-01-01, timezone: Mars/Base}]", "unknown timezone 'Mars/Base'"),
        ("collections: [{name: a, start_date: 2026-01-01, granularity: yearly}]", "hourly, daily, weekly, monthly"),
        ("collections: [{name: a, start_date: 2026-01-01, encoding: xlsx}]", "csv, csv.gz"),
        (
            "collections: [{name: a, start_date: 2026-01-01, lookback_days: 0}]",
            "lookback_days must be a whole number from 1 to 366, not 0",
        ),
        (
            "collections: [{name: a, start_date: 2026-01-01, filters: [{property_name: x, operator: like, property_value: 1}]}]",
            "unknown operator",
        ),
        ("collections: [{name: _a, start_date: 2026-01-01}]", "not a legal name"),
        ("collections: [{name: 'a '}]", "no blank at either end"),
        ("collections: [{name: a, start_date: 2026-01-01}, {name: a, start_date: 2026-01-01}]", "is listed twice"),
        ("collections: [3]", "not a mapping"),
        ("collections: [{name: a, lookback_days: true}]", "lookback_days must be a whole number"),
        ("collections: [{name: a, catch_up: -1}]", "catch_up must be a whole number from 0 to 10000"),
        ("collections: [{name: a, owners: me@x.com}]", "owners must be a list of strings, not 'me@x.com'"),
        ("collections: [{name: a, owners: [1]}]", "owners must be a list of strings"),
        ("collections: [{name: a, tags: [a]}]", "tags must be a mapping of strings to strings"),
        ("collections: [{name: a, tags: {a: 1}}]", "tags must be a mapping of strings to strings"),
        ("collections: [{name: a, email: 5}]", "email must be one address, not 5"),
        ("collections: [{name: a, email: 'a@b.example, c@d.example'}]", "email must be one address"),
        ("collections: [{name: a, email: 'me'}]", "email must be one address, not 'me'"),
        ("collections: [{name: a, description: 5}]", "description must be text, not 5"),
        ("collections: [{name: a, cron: [0]}]", "cron must be text"),
        ("collections: [{name: a, cron: at night}]", r"cron must be a schedule such as '0 1 \* \* \*', not 'at night'"),
        ("collections: [{name: a, cron: '0 1 * * * *'}]", "cron must be a schedule"),
        ("collections: [{name: a, cron: ''}]", "cron must be a schedule"),
        ("collections: [{name: a, timezone: localtime}]", "unknown timezone 'localtime'"),
        ("collections: [{name: a, timezone: right/UTC}]", "unknown timezone 'right/UTC'"),
        ("collections: [{name: a, owners: [nobody]}]", "owners: 'nobody' is neither an address nor 'team:' and a name"),
        ("collections: [{name: a, owners: [me@x.technology]}]", "owners: 'me@x.technology' is neither an address"),  # by Dagster
        ("collections: [{name: a, tags: {a b: c}}]", "tags: 'a b': 'c' isn't a tag that Dagster takes"),
        ("collections: [{name: a, tags: {a: b c}}]", "tags: 'a': 'b c' isn't a tag that Dagster takes"),
        (f"collections: [{{name: a, email: {'x' * 65}@example.com}}]", "email must be one address"),
        ('collections: [{name: a, email: "a\\0@example.com"}]', "email must be one address"),
        (f"collections: {'[' * 2000}{']' * 2000}", "is not YAML: maximum recursion depth exceeded"),
        ("collections: [{name: a, layout: flat}]", "layout must be one of plain, hive"),
        ("collections: [{name: a, count_check: on}]", "count_check must be one of fail, warn, off, not True"),
        ("collections: [{name: a, count_check: [fail]}]", "count_check must be one of fail, warn, off"),
        ("collections: [{name: a, granularity: off}]", "granularity must be one of hourly, daily, weekly, monthly"),
        ("collections: [{name: a, fresh_within_hours: 0}]", "fresh_within_hours must be 1 to 8784"),
        ("collections: [{name: a, fresh_within_hours: soon}]", "fresh_within_hours must be 1 to 8784"),
        ("collections: [{name: a, timezone: 5}]", "unknown timezone 5"),
        ("collections: [{name: a, timezone: ../etc/passwd}]", "unknown timezone"),
        ("collections: [{name: a, start_date: 2026-02-30}]", "start_date must be YYYY-MM-DD, not '2026-02-30'"),
        ("collections: [{name: a, mask: [a]}]", "mask must map columns to hash, mask or drop"),
        ("collections: [{name: a, mask: {a: blur}}]", "mask must be one of hash, drop, mask, not 'blur'"),
        ("collections: [{name: a, mask: {1: drop}}]", "1 isn.t a column name"),
        ("collections: [{name: a, mask: {user.id: drop, body:user:id: hash}}]", "two names are the same column"),
        ("collections: [{name: a, run_tags: [a]}]", "run_tags must map tags"),
        ("collections: [{name: a, run_tags: {a: 1}}]", "'a': 1 isn.t a tag"),
        ("collections: [{name: a, filters: {property_name: x}}]", "filters must be a list of filters"),
        ("collections: [{name: a, filters: x}]", "filters must be a list of filters"),
        ("collections: [{name: a, filters: [{property_name: x, operator: eq, property_value: 1, colour: red}]}]", "unknown colour"),
        ("collections: [{name: a, filters: [{operator: or, operands: []}]}]", "an `or` group can't be used here"),
        (
            "collections: [{name: a, filters: [{property_name: x, operator: exists, property_value: 1}]}]",
            "exists takes true or false",
        ),
        ("collections: [{name: a, filters: [x]}]", "'x' is not an object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "collections.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as refused:
        read_collections_file(file)
    assert str(refused.value).startswith(f"{file}: ") or "not YAML" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["NO", "yes", "off", "01234", "12:30", "1_000", "0x1F", "1e5", ".5", "+1", ".inf", "[SE, NO]"])
def test_a_filter_value_that_yaml_reads_otherwise_than_a_person_is_refused(tmp_path: Path, value: str) -> None:
    """Of Norway's NO, which YAML reads as false, a filter took no event, and every empty file was called whole."""
    file = tmp_path / "collections.yaml"
    file.write_text(f"collections:\n- name: a\n  filters:\n  - {{property_name: x, operator: in, property_value: {value}}}")
    with pytest.raises(ConfigurationError, match=r"isn't what it looks like in YAML: put texts in quotes.* line 4, column \d+"):
        read_collections_file(file)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("'NO'", "NO"),
        ('"01234"', "01234"),
        ("True", True),
        ("false", False),
        ("-3", -3),
        ("0", 0),
        ("2.5", 2.5),
        ("1.0e+5", 1e5),
        ("EUR", "EUR"),
        ("null", None),
        ("'1e5'", "1e5"),
    ],
)
def test_other_filter_values_are_read_as_they_stand(tmp_path: Path, value: str, read: object) -> None:
    file = tmp_path / "collections.yaml"
    file.write_text(f"collections: [{{name: a, filters: [{{property_name: x, operator: eq, property_value: {value}}}]}}]")
    [collection] = read_collections_file(file)
    assert [(f.property_value, type(f.property_value)) for f in collection.filters] == [(read, type(read))]


@pytest.mark.parametrize("field", ["count_check", "schema_check", "size_check"])
def test_a_bare_off_is_off(tmp_path: Path, field: str) -> None:
    """YAML reads it as False."""
    file = tmp_path / "collections.yaml"
    file.write_text(f"collections: [{{name: a, {field}: off}}]")
    [collection] = read_collections_file(file)
    assert getattr(collection, field).value == "off"


def test_everything_but_the_name_has_a_default(tmp_path: Path) -> None:
    file = tmp_path / "collections.yaml"
    for text in ("{name: a}", "{name: a, start_date: , owners: , timezone: , filters: }"):
        file.write_text(f"collections: [{text}]")
        assert read_collections_file(file) == [Collection("a")]


def test_a_missing_file_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="KEEN_PIPELINE_COLLECTIONS"):
        read_collections_file(tmp_path / "none.yaml")
