"""Names of collections as names of folders."""

from __future__ import annotations

import errno
import gc
import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from keen_pipeline.errors import InvalidInputError, NotFoundError
from keen_pipeline.service.http.resources.events import store_batch
from keen_pipeline.service.storage.engine import DiskFullError
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
        with pytest.raises(InvalidInputError, match="only in case") as refused:
            service.add_events("shop", [{"n": 2}])
        assert refused.value.field == "collection"
        answer = store_batch(service, json.dumps({"shop": [{"n": 3}], "Shop": [{"n": 4}]}).encode())
        assert [one["success"] for name in ("shop", "Shop") for one in answer[name]] == [False, True]
        assert answer["shop"][0]["error"]["name"] == "InvalidCollectionNameError"
        assert fold(service, "Shop") == 1
        assert n_of(service, "Shop") == [1, 4]
    finally:
        place.close()


def test_names_that_a_full_disk_has_no_room_for_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    service = place.open()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(service.store._tables, "place", Mock(side_effect=OSError(errno.ENOSPC, "")))
            for n in range(20):
                with pytest.raises(DiskFullError):
                    service.add_events(f"shop-{n}", [{"n": 1}])
        gc.collect()
        assert len(service.store._opening) == 0
        service.add_events("shop-1", [{"n": 1}])
        assert n_of(service, "shop-1") == [1]
    finally:
        place.close()
