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
        ("collections: [{name: a}]", r"collections\[0\]: start_date is missing"),
        ("collections: [{start_date: 2026-01-01}]", "name is missing"),
        ("collections: [{name: a, start_date: 2026-01-01, colour: red}]", "unknown colour"),
        ("collections: [{name: a, start_date: soon}]", "YYYY-MM-DD"),
        ("collections: [{name: a, start_date: 2026-01-01, timezone: Mars/Base}]", "unknown timezone 'Mars/Base'"),
        ("collections: [{name: a, start_date: 2026-01-01, granularity: yearly}]", "hourly, daily, weekly, monthly"),
        ("collections: [{name: a, start_date: 2026-01-01, encoding: xlsx}]", "csv, csv.gz"),
        ("collections: [{name: a, start_date: 2026-01-01, lookback_days: 0}]", "lookback_days must be 1 to 366"),
        (
            "collections: [{name: a, start_date: 2026-01-01, filters: [{property_name: x, operator: like, property_value: 1}]}]",
            "unknown operator",
        ),
        ("collections: [{name: ../a, start_date: 2026-01-01}]", "not a legal name"),
        ("collections: [{name: a, start_date: 2026-01-01}, {name: a, start_date: 2026-01-01}]", "stands there twice"),
        ("collections: [3]", "not a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "collections.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as refused:
        read_collections_file(file)
    assert str(file) in str(refused.value)


def test_a_missing_file_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="KEEN_PIPELINE_COLLECTIONS"):
        read_collections_file(tmp_path / "none.yaml")
