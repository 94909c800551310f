"""A downstream asset annotates its parameter and gets the landed partitions as that type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from keen_pipeline import Collection, KeenIOManager, KeenReader, KeenTranslator, KeenTranslatorData
from keen_pipeline.collections_file import collection_to_wire
from keen_pipeline.defs.translator import EXTRACTION_METADATA
from keen_pipeline.errors import ConfigurationError, InvalidInputError
from keen_pipeline.testing import KeenLanding
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace, Place

PURCHASES = dg.AssetKey(["keen", "purchases"])
DAILY = dg.DailyPartitionsDefinition(start_date="2026-01-01")
COLUMNS = ["header:timestamp", "body:amount", "body:text", "body:user:id"]


@pytest.fixture
def place(make_place: MakePlace) -> Place:
    place = make_place()
    assert place.backfill(["keen/purchases"], DAYS[0], DAYS[-1]).success
    return place


def consumer(kind: Any, see: Callable[[Any], None], **metadata: Any) -> dg.AssetsDefinition:
    """An asset of the same days whose parameter `purchases` is of `kind`."""

    def downstream(purchases):  # type: ignore[no-untyped-def]
        see(purchases)

    downstream.__annotations__["return"] = None
    if kind is not None:
        downstream.__annotations__["purchases"] = kind
    ins = {"purchases": dg.AssetIn(PURCHASES, metadata=metadata or None)}
    return dg.asset(name="downstream", ins=ins, partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run())(downstream)


def run(place: Place, asset: dg.AssetsDefinition, days: Sequence[str], **kwargs: Any) -> dg.ExecuteInProcessResult:
    defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[asset]))
    tags = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]}
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=place.instance, asset_selection=[dg.AssetKey("downstream")], tags=tags, **kwargs)


FRAMES: list[tuple[Any, Callable[[Any], pa.Table]]] = [
    (pd.DataFrame, lambda frame: pa.Table.from_pandas(frame, preserve_index=False)),
    (pl.DataFrame, lambda frame: frame.to_arrow()),
    (pl.LazyFrame, lambda frame: frame.collect().to_arrow()),
    (pa.Table, lambda table: table),
    (duckdb.DuckDBPyRelation, lambda relation: relation.to_arrow_table()),
]


def test_frames_of_all_days_in_order(place: Place) -> None:
    for kind, to_table in FRAMES:
        seen: list[list[dict[str, Any]]] = []
        assert run(place, consumer(kind, lambda value: seen.append(to_table(value).to_pylist())), DAYS).success  # noqa: B023
        [rows] = seen
        assert list(rows[0]) == COLUMNS
        assert len(rows) == 3 + 4 + 5 + 6
        assert rows[3] == {
            "header:timestamp": datetime(2026, 1, 2, tzinfo=timezone.utc),
            "body:amount": 0.0,
            "body:text": 'purchases, "2026-01-02"\nline',
            "body:user:id": 0.0,
        }


def test_without_an_annotation_it_is_the_uri_or_uris_by_day(place: Place) -> None:
    seen: list[Any] = []
    assert run(place, consumer(None, seen.append), DAYS[:1]).success
    assert run(place, consumer(None, seen.append), DAYS[:2]).success
    paths = [str(place.root / "purchases" / f"{day}.csv") for day in DAYS]
    assert seen == [paths[0], dict(zip(DAYS[:2], paths[:2], strict=True))]


def test_paths_and_frames_by_day(place: Place) -> None:
    seen: list[Any] = []
    assert run(place, consumer(list[Path], seen.append), DAYS[:2]).success
    assert run(place, consumer(dict[str, pd.DataFrame], seen.append), DAYS[:2]).success
    assert [path.read_bytes()[:6] for path in seen[0]] == [b"header", b"header"]
    assert {day: len(frame) for day, frame in seen[1].items()} == {DAYS[0]: 3, DAYS[1]: 4}


def test_metadata_of_the_input_say_columns_types_and_what_is_missing(place: Place) -> None:
    seen: list[pd.DataFrame] = []
    wanted = consumer(
        pd.DataFrame, seen.append, columns=["body:user:id", "body:amount"], types={"body:user:id": "string"}, missing="empty"
    )
    assert run(place, wanted, [DAYS[-1], "2026-01-06"]).success
    assert seen[0].to_dict("list") == {"body:user:id": list("012345"), "body:amount": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}


def test_missing_partition_is_an_error_that_names_it(place: Place) -> None:
    result = run(place, consumer(pd.DataFrame, print), [DAYS[-1], "2026-01-06"], raise_on_error=False)
    assert not result.success
    [event] = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "purchases: 2 of 3 partitions are not landed" in str(event.step_failure_data.error)
    assert "2026-01-05, 2026-01-06" in str(event.step_failure_data.error)


def test_who_loads_an_asset_without_naming_a_partition_is_told_so(keen_landing: KeenLanding) -> None:
    keen_landing.land("purchases", {DAYS[0]: [{"amount": 1}]})
    spec = KeenTranslator().get_asset_spec(KeenTranslatorData(Collection("purchases", DAYS[0])))
    defs = dg.Definitions(assets=[spec], resources=keen_landing.resources)
    assert len(defs.load_asset_value(spec.key, partition_key=DAYS[0], python_type=pd.DataFrame)) == 1
    with pytest.raises(InvalidInputError, match="purchases: say which partition is to be loaded"):
        defs.load_asset_value(spec.key, python_type=pd.DataFrame)  # it had been an empty frame


def test_a_reader_may_say_for_all_inputs_what_is_missing(keen_landing: KeenLanding) -> None:
    keen_landing.land("purchases", {DAYS[0]: [{"amount": 1}]})
    reader = keen_landing.resources["keen_reader"]
    lenient = {"keen_io_manager": KeenIOManager(reader=KeenReader(**{**dict(reader), "missing": "empty"}))}
    seen: list[int] = []
    asset = consumer(pd.DataFrame, lambda frame: seen.append(len(frame)))
    assert keen_landing.materialize(asset, partition_keys=DAYS[:2], resources=lenient).success
    assert seen == [1]
    strict = consumer(pd.DataFrame, print, missing="error")
    with pytest.raises(ConfigurationError, match="purchases: 1 of 2 partitions are not landed"):
        keen_landing.materialize(strict, partition_keys=DAYS[:2], resources=lenient)


def test_unpartitioned_asset_gets_all_landed_days(place: Place) -> None:
    seen: list[int] = []

    @dg.asset(ins={"purchases": dg.AssetIn(PURCHASES, metadata={"missing": "empty"})})
    def total(purchases: pl.LazyFrame) -> None:
        seen.append(purchases.select(pl.len()).collect().item())

    defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[total]))
    job = defs.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=place.instance, asset_selection=[dg.AssetKey("total")]).success
    assert seen == [18]


def test_an_input_is_read_by_the_configuration_of_its_asset() -> None:
    collection, asset = Collection("purchases", "2026-01-01"), dg.AssetKey("purchases")
    for metadata, known in (({EXTRACTION_METADATA: collection_to_wire(collection)}, collection), ({}, None)):
        output = SimpleNamespace(definition_metadata=metadata)
        context = Mock(upstream_output=output, asset_key=asset, asset_partition_keys=["2026-01-01"], definition_metadata={})
        manager: Any = SimpleNamespace(reader=Mock(missing="error"))
        KeenIOManager.load_input(manager, context)
        assert manager.reader.open.call_args.args == (known,)
