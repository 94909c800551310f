"""Collections whose names have blanks, which Keen takes and Dagster does not."""

from __future__ import annotations

import dagster as dg
import pandas as pd
import pytest

from keen_pipeline import Collection, build_keen_definitions
from keen_pipeline.client import KeenClient
from keen_pipeline.errors import InvalidInputError
from keen_pipeline_tests.defs.conftest import DAYS, MakePlace


def test_they_land_under_their_name_and_are_read_downstream(make_place: MakePlace) -> None:
    place, seen = make_place(collections=[Collection("Sign Ups", "2026-01-01")]), []  # type: ignore[var-annotated]
    keys = {"read_key": place.endpoint.read_key, "write_key": place.endpoint.write_key}
    with KeenClient(place.endpoint.base_url, place.endpoint.project_id, **keys) as client:
        client.add_events({"Sign Ups": [{"keen": {"timestamp": f"{DAYS[0]}T10:00:00Z"}, "n": 1}]})

    @dg.asset(ins={"events": dg.AssetIn(["keen", "Sign_Ups"])}, partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def downstream(events: pd.DataFrame) -> None:
        seen.append(list(events["body:n"]))

    place.defs = dg.Definitions.merge(place.defs, dg.Definitions(assets=[downstream]))
    assert place.backfill(["keen/Sign_Ups", "downstream"], DAYS[0], DAYS[0]).success
    assert (place.root / "Sign Ups" / f"{DAYS[0]}.csv").is_file()
    assert seen == [[1.0]]


def test_two_that_would_be_one_asset_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="would be one asset"):
        build_keen_definitions([Collection("a b", "2026-01-01"), Collection("a_b", "2026-01-01")])
