"""What the storage relies on in deltalake and DuckDB, each proven by a test of its own."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from keen_pipeline.errors import ConfigurationError, ServiceUnavailableError
from keen_pipeline.service.storage import tables
from keen_pipeline.service.storage.parts import DataFile, disk_name, name_on_disk
from keen_pipeline.service.storage.places import TablePlace
from keen_pipeline.service.storage.shared.tables import prove_one_winner, storage_options, table_root
from keen_pipeline.service.storage.tables import EMPTY, OvertakenError, Table
from keen_pipeline_tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server

COLUMNS = {"keen.timestamp": "p0", "n": "p1"}


class Place:
    """A table in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, str(folder)
        self.options: dict[str, str] = {}

    def committed(self, version: int) -> None:
        assert (self.folder / "_delta_log" / f"{version:020d}.json").exists()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "a täble~20").mkdir()
    return Place(tmp_path / "a täble~20")


def write(place: Place, name: str, times: Sequence[int]) -> DataFile:
    path = place.folder / name
    values = ", ".join(f"({t}::BIGINT, '{t}')" for t in times)
    duckdb.sql(f"COPY (SELECT * FROM (VALUES {values}) v(t, p1)) TO '{path}' (FORMAT parquet)")
    return DataFile(name, len(times), min(times), max(times), path.stat().st_size)


def test_a_commit_adds_removes_and_moves_the_watermark_at_once(place: Place) -> None:
    table = Table(place, shared=False)
    assert table.state() == EMPTY
    one, two = write(place, "000000000001-a.parquet", [5, 3]), write(place, "000000000002-b.parquet", [9])
    table.commit(add=[one], watermark=(0, 1), columns=COLUMNS)
    table.commit(add=[two], watermark=(1, 2), columns={**COLUMNS, "late": "p2"})
    state = table.state()
    assert (state.files, state.watermark, state.columns) == ((one, two), 2, {**COLUMNS, "late": "p2"})
    rest = write(place, "000000000001-c.parquet", [3])
    table.commit(add=[rest], remove=[one])
    assert Table(place, shared=True).state().files == table.state().files == (rest, two)
    assert table.state().watermark == 2


def test_what_another_process_did_first_is_not_done_again(place: Place) -> None:
    slow, quick = Table(place, shared=True), Table(place, shared=True)
    one = write(place, "000000000001-a.parquet", [1])
    slow.commit(add=[one], watermark=(0, 1), columns=COLUMNS)
    quick.commit(add=[write(place, "000000000002-b.parquet", [2])], watermark=(1, 2))
    with pytest.raises(OvertakenError):
        slow.commit(add=[write(place, "000000000002-c.parquet", [2])], watermark=(1, 2))
    quick.commit(remove=[one])
    with pytest.raises(OvertakenError):
        slow.commit(add=[write(place, "000000000001-d.parquet", [1])], remove=[one])
    assert [file.name for file in slow.state().files] == ["000000000002-b.parquet"]


def test_a_commit_whose_end_can_not_be_seen_is_known_to_the_next_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(place, shared=False)
    one, two = write(place, "000000000001-a.parquet", [5]), write(place, "000000000002-b.parquet", [9])
    table.commit(add=[one], watermark=(0, 1), columns=COLUMNS)
    with monkeypatch.context() as full:
        full.setattr(place, "committed", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(ServiceUnavailableError):
            table.commit(add=[two], watermark=(1, 2))
    with pytest.raises(OvertakenError):
        table.commit(add=[two], watermark=(1, 2))
    assert (table.state().files, table.state().watermark) == ((one, two), 2)


def test_deltalake_refuses_a_stale_transaction_and_a_file_that_is_gone(place: Place) -> None:
    """The narrow gap between reading the newest version and the commit is deltalake's to close."""
    table = Table(place, shared=True)
    one = write(place, "000000000001-a.parquet", [1])
    table.commit(add=[one], watermark=(0, 1), columns=COLUMNS)
    stale = [DeltaTable(place.uri) for _ in range(2)]
    other = Table(place, shared=False)
    other.commit(add=[write(place, "000000000002-b.parquet", [2])], watermark=(1, 2))
    other.commit(remove=[one])
    again = write(place, "000000000002-c.parquet", [2])
    with pytest.raises(CommitFailedError):
        table._commit(stale[0], [again], [], 2)
    with pytest.raises(CommitFailedError):
        table._commit(stale[1], [], [one], None)


def test_what_is_done_first_between_a_new_column_and_its_events_is_not_done_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = Table(place, shared=True), Table(place, shared=True)
    slow.commit(add=[write(place, "000000000001-a.parquet", [1])], watermark=(0, 1), columns=COLUMNS)
    usual = Table._committed

    def overtaken(table: Table, delta: DeltaTable) -> None:
        if table is slow and quick.state().watermark == 1:
            quick.commit(add=[write(place, "000000000002-b.parquet", [2])], watermark=(1, 2))
        usual(table, delta)

    monkeypatch.setattr(Table, "_committed", overtaken)
    with pytest.raises(OvertakenError):
        slow.commit(add=[write(place, "000000000002-c.parquet", [2])], watermark=(1, 2), columns={**COLUMNS, "late": "p2"})
    assert [file.number for file in slow.state().files] == [1, 2]


def test_a_table_of_an_older_release_gets_todays_settings_with_its_next_commit(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = dict(tables._SETTINGS)
    monkeypatch.delitem(tables._SETTINGS, "delta.logRetentionDuration")
    Table(place, shared=True).commit(add=[write(place, "000000000001-a.parquet", [1])], watermark=(0, 1), columns=COLUMNS)
    monkeypatch.setattr(tables, "_SETTINGS", today)
    table = Table(place, shared=True)
    for n in (2, 3):
        table.commit(add=[write(place, f"00000000000{n}-a.parquet", [n])], watermark=(n - 1, n))
    delta = DeltaTable(place.uri)
    assert delta.metadata().configuration == today
    assert (delta.version(), table.state().watermark) == (1 + 1 + 2, 3)  # made, filled, set; filled twice


def test_commits_of_days_ago_are_removed_and_who_slept_meanwhile_reads_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit every thirty seconds makes 90,000 in a month, and each takes longer the more there are."""
    monkeypatch.setitem(tables._SETTINGS, "delta.logRetentionDuration", "interval 1 second")
    table, sleeper = Table(place, shared=False), Table(place, shared=True)
    for n in range(1, 121):
        table.commit(add=[DataFile(f"{n:012d}-a.parquet", 1, n, n, 9)], watermark=(n - 1, n), columns=COLUMNS)
        if n == 5:
            assert sleeper.state().watermark == 5
        if n == 60:
            time.sleep(1.2)
    assert len(list((place.folder / "_delta_log").glob("*.json"))) < 90
    assert sleeper.state() == table.state()


def test_files_stand_in_order_of_their_logs_however_many_there_are(place: Place) -> None:
    table = Table(place, shared=False)
    made = [write(place, f"{n:012d}-{n * 7919 % 1000:03d}.parquet", [n]) for n in range(1, 301)]
    table.commit(add=list(reversed(made)), watermark=(0, 300), columns=COLUMNS)
    assert [file.number for file in table.state().files] == list(range(1, 301))
    began = time.process_time()
    assert len(Table(place, shared=False).state().files) == 300
    assert time.process_time() - began < 5


def test_only_what_left_the_table_long_ago_is_swept(place: Place) -> None:
    table = Table(place, shared=False)
    one, unknown = write(place, "000000000001-a.parquet", [1]), write(place, "000000000009-unknown.parquet", [1])
    table.commit(add=[one], watermark=(0, 1), columns=COLUMNS)
    table.commit(remove=[one])
    for seconds in (48 * 3600, 1):
        table.sweep(seconds)
        assert (place.folder / one.name).exists()
    table.sweep(0)
    assert not (place.folder / one.name).exists()
    assert (place.folder / unknown.name).exists()
    version = table.state().version
    table.sweep(0)
    assert table.state().version == version  # nothing to remove is no commit


def test_a_table_is_readable_by_others(place: Place) -> None:
    table = Table(place, shared=False)
    table.commit(add=[write(place, "000000000001-a.parquet", [1, 2])], watermark=(0, 1), columns=COLUMNS)
    delta = DeltaTable(place.uri)
    assert delta.count() == 2
    assert [(field.name, field.metadata) for field in delta.schema().fields][1:] == [
        ("p0", {"keen.path": "keen.timestamp"}),
        ("p1", {"keen.path": "n"}),
    ]


def test_a_storage_that_is_away_is_an_error_to_retry_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    options = storage_options("s3://bucket/root")
    assert {options[name] for name in ("timeout", "retry_timeout", "AWS_ALLOW_HTTP")} == {"30s", "20s", "true"}
    table = Table(TablePlace("s3://bucket/root/events/shop", {**options, "max_retries": "1"}, lambda version: None), shared=True)
    with pytest.raises(ServiceUnavailableError, match="can't be used now") as raised:
        table.state()
    assert raised.value.retry_after


def test_a_storage_that_lets_two_win_is_refused(tmp_path: Path, bucket: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []

    class Objects:
        def remove(self, name: str) -> None:
            removed.append(name)

    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
    options = {**keys, "AWS_ENDPOINT_URL": bucket.endpoint, "AWS_ALLOW_HTTP": "true"}
    prove_one_winner(f"{bucket.uri}/probes", options, Objects())  # type: ignore[arg-type]
    prove_one_winner(str(tmp_path), {}, Objects())  # type: ignore[arg-type]
    assert len(removed) == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match="can't hold tables"):
        prove_one_winner(f"{bucket.uri}/probes", {**options, "AWS_CONDITIONAL_PUT": "disabled"}, Objects())  # type: ignore[arg-type]

    class Overwritten(DeltaTable):
        def create_write_transaction(self, *arguments: Any, **named: Any) -> None:
            """A storage that knows no condition says yes to both."""

    monkeypatch.setattr("keen_pipeline.service.storage.shared.tables.DeltaTable", Overwritten)
    with pytest.raises(ConfigurationError, match="conditional writes"):
        prove_one_winner(str(tmp_path), {}, Objects())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="conditional writes"):
        table_root("sftp://host/folder")
    with pytest.raises(ConfigurationError, match="percent sign"):
        table_root("s3://bucket/a%41")
    with pytest.raises(ConfigurationError, match="a backslash"):
        table_root("/srv/a\\b")


@pytest.mark.parametrize("name", ["shop", "user:signup", "a/b", "c++", "Ünï", "..", "100%", "x~41", "a b"])
def test_a_name_on_disk_is_one_folder_and_reads_back(name: str) -> None:
    folder = disk_name(name)
    assert folder.isascii()
    assert not set(folder) & set("/\\%:. ")
    assert name_on_disk(folder) == name
    assert name_on_disk("_set_aside") is None


def test_duckdb_takes_small_row_groups_and_keeps_the_footer(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = json.dumps({"é'\"": 1})
    quoted = text.replace("'", "''")
    options = f"FORMAT parquet, ROW_GROUP_SIZE 19, KV_METADATA {{k: '{quoted}'}}"
    parts = []
    for part in range(3):  # what is read in one piece is not taken apart, and a log is never read in larger ones than a row group
        parts.append(str(tmp_path / f"{part}.parquet"))
        duckdb.sql(f"COPY (SELECT * FROM range(19)) TO '{parts[-1]}' (FORMAT parquet)")
    duckdb.sql(f"COPY (SELECT * FROM read_parquet({parts})) TO '{path}' ({options})")
    groups = duckdb.sql(f"SELECT count(DISTINCT row_group_id), max(row_group_num_rows) FROM parquet_metadata('{path}')").fetchall()
    assert groups == [(3, 19)]
    assert duckdb.sql(f"SELECT value FROM parquet_kv_metadata('{path}')").fetchall() == [(text.encode(),)]
