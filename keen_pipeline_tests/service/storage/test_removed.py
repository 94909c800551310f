"""What is removed from a data folder, or put into its place, while its service runs: a plain error, and nothing is made anew."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.service import embedded
from keen_pipeline.service.application import Service
from keen_pipeline.service.extractions.records import COMPLETE
from keen_pipeline.service.storage.places import StorageError
from keen_pipeline_tests.service.environment import clean_environment
from keen_pipeline_tests.service.http_client import Http
from keen_pipeline_tests.service.stores import Place, await_status, delete, events, fold, n_of


def post(service: Service) -> None:
    service.add_events("shop", [{"n": 3}])


def read(service: Service) -> None:
    events(service, "shop")


def take_new(service: Service) -> None:
    service.add_events("new", [{"n": 1}])


def ask(service: Service) -> None:
    service.create_extraction("shop", {}, names="v2")


def poll(service: Service) -> None:
    service.records.count_waiting()


def fold_shop(service: Service) -> None:
    fold(service, "shop")


def empty(service: Service) -> None:
    delete(service, "shop")


def check(service: Service) -> None:
    service.backend.check()


@pytest.mark.parametrize(
    ("gone", "fail"),
    [
        ("log/shop", [post, read, ask, fold_shop]),
        ("log", [post, read, take_new, check]),
        ("log/shop/000000000002.ndjson", [read, fold_shop]),
        ("events", [read, take_new, fold_shop, check]),
        ("events/shop", [read, fold_shop, empty]),
        ("events/shop/_delta_log", [fold_shop, empty]),
        ("state.db", [ask, poll]),
    ],
)
@pytest.mark.parametrize("replaced", [False, True])
def test_what_is_gone_is_named_and_what_is_stored_is_there_when_it_is_put_back(
    folder: Place, tmp_path: Path, gone: str, fail: list[Callable[[Service], None]], replaced: bool
) -> None:
    service = folder.open()
    for n in (1, 2):
        service.add_events("shop", [{"n": n}])
        if n == 1:
            fold(service, "shop")
    assert n_of(service, "shop") == [1, 2]
    path, aside = tmp_path / "one" / gone, tmp_path / "aside"
    path.rename(aside)
    if replaced and path.suffix == "":
        path.mkdir()
    for action in fail:
        with pytest.raises(StorageError, match=gone.split("/")[-1] if "_delta_log" not in gone else "shop") as raised:
            action(service)
        assert len(str(raised.value)) < 200
        assert str(tmp_path) not in str(raised.value)
    folder.close()
    if path.is_dir():
        assert [*path.rglob("_delta_log"), *path.rglob("*.ndjson")] == []
        shutil.rmtree(path)
    aside.rename(path)
    assert n_of(folder.open(), "shop") == [1, 2]


def test_a_service_without_its_data_folder_says_so_and_makes_none(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as running:
        http = Http(running.endpoint)
        http.add("shop", {"n": 1})
        shutil.rmtree(data)
        asked = [
            http.request("POST", f"{http.v3}/events/shop", body={"n": 2}),
            http.request("POST", f"{http.v3}/events/new", body={"n": 2}),
            http.request("POST", f"{http.v2}/shop/_extract", body={}),
            http.request("GET", f"{http.v3}/events"),
            http.request("GET", "/healthz", key=None),
        ]
        assert [answer.status for answer in asked] == [503] * 5
        assert all("of the data folder was removed" in json.loads(answer.data)["message"] for answer in asked)
    assert not data.exists()


def test_a_lock_that_somebody_removed_lets_no_second_service_in(data: Path) -> None:
    with embedded.start(data, env=clean_environment()) as running:
        (data / "lock").unlink()
        with pytest.raises(ConfigurationError, match=f"by the service at {running.endpoint.base_url}, whose lock was removed"):
            embedded.start(data, env=clean_environment())
        assert embedded.find(data) == running.endpoint


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES])
def test_a_disk_that_can_not_be_written_to_is_a_plain_error_and_what_is_stored_is_read(
    folder: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    usual = os.open

    def fails(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & os.O_WRONLY and str(path).endswith(".ndjson"):
            raise OSError(number, os.strerror(number), str(path))
        return usual(path, flags, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        with pytest.raises(StorageError, match=f"storing events fails, .*{os.strerror(number)}"):
            service.add_events("shop", [{"n": 2}])
        assert n_of(service, "shop") == [1]
    service.add_events("shop", [{"n": 3}])
    assert n_of(service, "shop") == [1, 3]


def test_room_made_by_removing_all_results_and_unfinished_work_is_no_loss(folder: Place, tmp_path: Path) -> None:
    service = folder.open()
    service.add_events("shop", [{"n": 1}])
    for name in ("results", "work"):
        shutil.rmtree(tmp_path / "one" / name)
    assert fold(service, "shop") == 1
    asked = service.create_extraction("shop", {}, names="v2")
    await_status(service, asked.id, COMPLETE)
    assert (tmp_path / "one" / "results" / f"{asked.id}-1.csv").read_bytes().endswith(b"1\n")


@pytest.mark.parametrize("then", [[1], [1, 3]])
def test_half_an_append_that_could_not_be_cut_off_is_gone_before_anybody_reads_or_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: list[int]
) -> None:
    place = Place(tmp_path)
    service = place.open()
    try:
        service.add_events("shop", [{"n": 1}])
        (log,) = (tmp_path / "one" / "log" / "shop").iterdir()
        before = log.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", Mock(side_effect=OSError(errno.EIO, "")))
            patch.setattr(os, "ftruncate", Mock(side_effect=[None, OSError(errno.EIO, "")]))
            with pytest.raises(StorageError, match="can't be used"):
                service.add_events("shop", [{"n": 2}])
        assert log.read_bytes() != before
        for n in then[1:]:
            service.add_events("shop", [{"n": n}])
        assert n_of(service, "shop") == then
        place.close()
        assert n_of(place.open(), "shop") == then
    finally:
        place.close()
