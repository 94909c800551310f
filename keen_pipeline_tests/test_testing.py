"""What users test their own pipelines with: the fixtures in a project of their own, and the doubles without pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from keen_pipeline import KeenReader, KeenTranslator, KeenTranslatorData
from keen_pipeline.collection import Collection, Encoding, Granularity
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.testing import KeenLanding

PIPELINE = """
import dagster as dg
import pandas as pd


@dg.asset(
    ins={
        "purchases": dg.AssetIn(
            ["keen", "purchases"], metadata={"columns": ["body:amount"], "types": {"body:amount": "num"}}
        )
    },
    partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01"),
    backfill_policy=dg.BackfillPolicy.single_run(),
    automation_condition=dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window()),
)
def big_spenders(context: dg.AssetExecutionContext, purchases: dict[str, pd.DataFrame]) -> None:
    for day, events in purchases.items():
        context.add_asset_metadata({"spenders": int((events["body:amount"] > 100).sum())}, partition_key=day)
"""
TESTS = """
from pipeline import big_spenders


def test_the_first_day_without_events(keen_landing):
    keen_landing.land("purchases", {"2026-01-01": []})
    assert spenders(keen_landing.materialize(big_spenders, partition_keys="2026-01-01")) == {"2026-01-01": 0}


def test_a_range_in_one_run(keen_landing):
    keen_landing.land("purchases", {"2026-01-01": [{"amount": 5}], "2026-01-02": [], "2026-01-03": [{"amount": 100.5}]})
    result = keen_landing.materialize(big_spenders, partition_keys=["2026-01-01", "2026-01-03"])
    assert spenders(result) == {"2026-01-01": 0, "2026-01-02": 0, "2026-01-03": 1}


def spenders(result):
    events = result.asset_materializations_for_node("big_spenders")
    return {event.partition: event.metadata["spenders"].value for event in events}


def test_a_service(keen_service):
    from urllib.request import urlopen
    assert urlopen(keen_service.base_url).status == 200
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_fixtures_in_a_project_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["keen_pipeline.testing"]\n')
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "test_pipeline.py").write_text(TESTS)
    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_doubles_need_neither_pytest_nor_dagster(tmp_path: Path) -> None:
    code = "import sys, keen_pipeline.testing as t; t.memory_ledger(); print({'pytest', 'dagster', 'pyarrow'} & set(sys.modules))"
    done = run(tmp_path, "-c", code)
    assert done.stdout == "set()\n", done.stderr
    assert run(tmp_path, "-c", "from keen_pipeline.testing import nothing").returncode == 1


def test_literal_events_land_as_keen_would_extract_them(tmp_path: Path) -> None:
    landing = KeenLanding(tmp_path)
    made = landing.land(
        "purchases", {"2026-01-01": [{"b": 1, "a": {"x": "1"}}, {"keen": {"timestamp": "2026-01-01T10:00:00Z"}, "b": None}]}
    )
    assert Path(made["2026-01-01"].uri).read_text() == (
        'header:timestamp,body:a:x,body:b\n2026-01-01T00:00:00.000Z,"1",1\n2026-01-01T10:00:00.000Z,,null\n'
    )
    assert made["2026-01-01"].property_types == ("datetime", "string", "num")


def test_hours_other_encodings_and_a_second_landing(tmp_path: Path) -> None:
    landing = KeenLanding(tmp_path)
    hourly = Collection("visits", "2026-01-01", granularity=Granularity.HOURLY, encoding=Encoding.PARQUET)
    landing.land(hourly, {"2026-01-01-08:00": [{"n": 1}]})
    with pytest.raises(InvalidInputError, match=r"visits\[2026-01-01-08:00\] has landed; use force=True"):
        landing.land(hourly, {"2026-01-01-08:00": [{"n": 2}]})
    landing.land(hourly, {"2026-01-01-08:00": [{"n": 2}]}, force=True)
    frame = landing.reader.load("visits", "2026-01-01-08:00", pd.DataFrame)
    assert frame["header:timestamp"].iloc[0].isoformat() == "2026-01-01T08:00:00+00:00"
    assert frame["body:n"].to_list() == [2]


def test_more_events_than_a_partition_has_seconds_lie_in_it(tmp_path: Path) -> None:
    hourly = Collection("clicks", "2026-01-01", granularity=Granularity.HOURLY)
    landing = KeenLanding(tmp_path)
    landing.land(hourly, {"2026-01-01-05:00": [{"n": n} for n in range(4000)]})
    times = landing.reader.load("clicks", "2026-01-01-05:00", pd.DataFrame)["header:timestamp"]
    assert times.is_monotonic_increasing
    assert (len(times.unique()), times.min().hour, times.max().hour) == (4000, 5, 5)


def test_a_folder_may_be_named_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    landing = KeenLanding("here")
    landing.land("purchases", {"2026-01-01": [{"amount": 5}]})

    @dg.asset(ins={"purchases": dg.AssetIn(["keen", "purchases"])}, partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def amounts(purchases: pd.DataFrame) -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"events": len(purchases)})

    [event] = landing.materialize(amounts, partition_keys="2026-01-01").asset_materializations_for_node("amounts")
    assert event.metadata["events"].value == 1


def test_definitions_of_another_name(tmp_path: Path) -> None:
    landing = KeenLanding(tmp_path, name="shop")
    landing.land("purchases", {"2026-01-01": [{"n": 1}, {"n": 2}]})

    @dg.asset(ins={"purchases": dg.AssetIn(["shop", "purchases"])}, partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def seen(purchases: pd.DataFrame, shop_reader: KeenReader) -> list[int]:
        return [len(purchases), len(shop_reader.load("purchases", "2026-01-01", pd.DataFrame))]

    assert landing.materialize(seen, partition_keys="2026-01-01").output_for_node("seen") == [2, 2]


def test_keys_of_ones_own_translator(tmp_path: Path) -> None:
    class Raw(KeenTranslator):
        def get_asset_spec(self, data: KeenTranslatorData) -> dg.AssetSpec:
            return super().get_asset_spec(data).replace_attributes(key=["raw", data.collection.name])

    landing = KeenLanding(tmp_path)
    landing.land("purchases", {"2026-01-01": [{"n": 1}, {"n": 2}]})

    @dg.asset(ins={"purchases": dg.AssetIn(["raw", "purchases"])}, partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def seen(purchases: pd.DataFrame) -> int:
        return len(purchases)

    assert landing.materialize(seen, partition_keys="2026-01-01", translator=Raw()).output_for_node("seen") == 2


def test_a_mask_is_that_of_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEN_PIPELINE_MASK_KEY", raising=False)
    landing, event = KeenLanding(tmp_path), {"email": "ada@example.com", "phone": 5, "note": "n", "n": 1}
    signups = Collection("signups", "2026-01-01", mask={"body:email": "hash", "body:phone": "drop", "body:note": "mask"})
    with pytest.raises(ConfigurationError, match="set KEEN_PIPELINE_MASK_KEY"):
        landing.land(signups, {"2026-01-01": [event]})
    monkeypatch.setenv("KEEN_PIPELINE_MASK_KEY", "a key for the tests alone")
    landing.land(signups, {"2026-01-01": [event]})

    @dg.asset(ins={"signups": dg.AssetIn(["keen", "signups"])}, partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def seen(signups: pd.DataFrame) -> list[dict[str, object]]:
        return signups.to_dict("records")

    [row] = landing.materialize(seen, partition_keys="2026-01-01").output_for_node("seen")
    assert (list(row), row["body:note"], row["body:n"]) == (["header:timestamp", "body:email", "body:n", "body:note"], "***", 1)
    assert re.fullmatch("[0-9a-f]{32}", row["body:email"])


@pytest.mark.parametrize(
    ("key", "event", "reason"),
    [
        ("yesterday", {}, "is not one of its daily partitions"),
        ("2026-01-01", {"keen": {"timestamp": "2026-01-02T00:00:00Z"}}, "does not lie in it"),
        ("2026-01-01", {"keen": {"id": "x"}}, "can hold a timestamp only"),
    ],
)
def test_what_keen_would_not_extract_is_refused(tmp_path: Path, key: str, event: dict[str, object], reason: str) -> None:
    landing = KeenLanding(tmp_path)
    with pytest.raises(InvalidInputError, match=reason):
        landing.land("visits", {key: [event]})
    assert landing.ledger.landed_entries("visits") == []


def test_a_partition_that_is_missing_is_an_empty_frame(tmp_path: Path) -> None:
    landing = KeenLanding(tmp_path)
    landing.land("visits", {"2026-01-01": [{"n": 1}]})
    frames = landing.reader.load("visits", ["2026-01-01", "2026-01-02"], dict[str, pd.DataFrame], missing="empty")
    assert {key: (len(frame), str(frame["body:n"].dtype)) for key, frame in frames.items()} == {
        "2026-01-01": (1, "Int64"),
        "2026-01-02": (0, "Int64"),
    }
