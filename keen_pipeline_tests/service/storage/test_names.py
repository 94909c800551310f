"""Names of collections as names of folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keen_pipeline.errors import InvalidInputError, NotFoundError
from keen_pipeline.service.http.resources.events import store_batch
from keen_pipeline_tests.service.stores import Place, fold, n_of


def test_a_name_that_is_another_ones_folder_on_this_file_system_is_refused_and_the_other_keeps_its_events(tmp_path: Path) -> None:
    place = Place(tmp_path)
    service = place.open()
    try:
        service.add_events("Shop", [{"n": 1}])
        for folder in ("log", "events"):  # as where upper and lower case are one
            (tmp_path / "one" / folder / "shop").symlink_to("Shop")
        with pytest.raises(NotFoundError):
            n_of(service, "shop")
        with pytest.raises(InvalidInputError, match="differ in upper and lower case alone") as refused:
            service.add_events("shop", [{"n": 2}])
        assert refused.value.field == "collection"
        answer = store_batch(service, json.dumps({"shop": [{"n": 3}], "Shop": [{"n": 4}]}).encode())
        assert [one["success"] for name in ("shop", "Shop") for one in answer[name]] == [False, True]
        assert answer["shop"][0]["error"]["name"] == "InvalidCollectionNameError"
        assert fold(service, "Shop") == 1
        assert n_of(service, "Shop") == [1, 4]
    finally:
        place.close()
