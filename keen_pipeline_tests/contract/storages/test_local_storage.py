"""A local folder: what is synced when, and what becomes of the staged files of processes that ended."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest

from keen_pipeline.errors import ConfigurationError
from keen_pipeline.landing import FileDestination
from keen_pipeline.landing.storages import local
from keen_pipeline.landing.storages.local import STAGE_SUFFIX, is_staged, staged_name

TARGET = "purchases/2026-01-01.csv"
HOUR = timedelta(hours=1)
STAGING = """
import os, signal, sys, time
from keen_pipeline.landing import FileDestination
if "handled" in sys.argv[2]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
if "unnamed" not in sys.argv[2]:
    del os.O_TMPFILE
destination = FileDestination(sys.argv[1])
with destination._storage.stage(sys.argv[1] + "/purchases/2026-01-01.csv") as stage:
    stage.write(b"half")
    print("staged", flush=True)
    time.sleep(60)
"""


def staged(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(f".*{STAGE_SUFFIX}") if is_staged(path.name)]


def publish(root: Path, data: bytes, target: str = TARGET) -> None:
    storage = FileDestination(str(root))._storage
    with storage.stage(f"{root}/{target}") as stage:
        stage.write(data)
        storage.publish(stage, f"{root}/{target}")


def staging(root: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", STAGING, str(root), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "staged\n"
    return process


def end(process: subprocess.Popen[str], number: signal.Signals) -> int:
    process.send_signal(number)
    code = process.wait(30)
    assert process.stdout is not None
    process.stdout.close()
    return code


@pytest.fixture(params=["unnamed", "named"])
def stages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What staged files are; named ones, where the file system has no others."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    return str(request.param)


@pytest.mark.parametrize("how", ["named", "unnamed"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_staged_file_goes_with_the_process_that_was_killed(tmp_path: Path, number: signal.Signals, how: str) -> None:
    publish(tmp_path, b"old")
    process = staging(tmp_path, how)
    assert len(staged(tmp_path)) == (how == "named")
    assert end(process, number) == -number
    left = staged(tmp_path)
    assert len(left) == (how == "named")
    assert (tmp_path / TARGET).read_bytes() == b"old"
    destination = FileDestination(str(tmp_path))
    assert destination.remove_leftovers(HOUR) == []
    assert destination.remove_leftovers(-HOUR) == list(map(str, left))
    assert [path.name for path in (tmp_path / "purchases").iterdir()] == ["2026-01-01.csv"]


def test_process_that_handles_sigterm_removes_its_staged_file_itself(tmp_path: Path) -> None:
    process = staging(tmp_path, "named handled")
    assert len(staged(tmp_path)) == 1
    assert end(process, signal.SIGTERM) == 3
    assert list((tmp_path / "purchases").iterdir()) == []


@pytest.mark.parametrize(("age", "stays"), [(HOUR / 2, True), (HOUR * 2, False)])
@pytest.mark.parametrize("name", [".2026-01-01.csv.00000000-0123456789abcdef.landing", ".2026-01-01.csv.0123456789abcdef.landing"])
def test_staged_file_of_another_machine_or_release_goes_by_its_age(tmp_path: Path, name: str, age: timedelta, stays: bool) -> None:
    publish(tmp_path, b"old")
    other = tmp_path / "purchases" / name
    other.write_bytes(b"half")
    os.utime(other, times=(0, time.time() - age.total_seconds()))
    publish(tmp_path, b"new")
    assert other.exists()
    assert FileDestination(str(tmp_path)).remove_leftovers(HOUR) == ([] if stays else [str(other)])
    assert other.exists() is stays


def test_file_that_is_removed_meanwhile_stops_no_clean_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / ".2026-01-01.csv.0123456789abcdef.landing"
    old.touch()
    monkeypatch.setattr(os, "walk", lambda root: [(root, [], [staged_name("gone"), old.name]), (f"{root}/gone", [], [])])
    assert FileDestination(str(tmp_path)).remove_leftovers(-HOUR) == [str(old)]


def test_full_disk_is_told_by_the_name_of_the_file_and_not_of_its_staged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: local.StagedFile, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local.StagedFile, "write", full)
    with pytest.raises(ConfigurationError) as raised:
        FileDestination(str(tmp_path)).write("a/2026-01-01.csv", b"x")
    assert f"destination {tmp_path}/a/2026-01-01.csv is full" in str(raised.value)


@pytest.mark.usefixtures("stages")
def test_bytes_then_name_then_folder_are_synced_and_so_is_each_new_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    fsync, replace, mkdir = os.fsync, os.replace, Path.mkdir

    def noting_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(("fsync", path.name if path.is_dir() else "stage"))
        fsync(descriptor)

    def noting_replace(source: str, target: Path) -> None:
        steps.append(("replace", target.name))
        replace(source, target)

    def noting_mkdir(self: Path, **options: bool) -> None:
        steps.append(("mkdir", self.name))
        mkdir(self, **options)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    monkeypatch.setattr(Path, "mkdir", noting_mkdir)
    root = tmp_path / "a" / "b"
    storage = FileDestination(str(root))._storage
    with storage.stage(f"{root}/{TARGET}") as stage:
        stage.write(b"new")
        storage.publish(stage, f"{root}/{TARGET}", fence=lambda: steps.append(("fence", "")))
    parents = [("mkdir", "a"), ("fsync", tmp_path.name), ("mkdir", "b"), ("fsync", "a"), ("mkdir", "purchases"), ("fsync", "b")]
    published = [("fsync", "stage"), ("fence", ""), ("replace", "2026-01-01.csv"), ("fsync", "purchases")]
    assert steps == [*parents, *published]
    steps.clear()
    storage.write(f"{root}/{TARGET}", b"newer")
    assert steps == [step for step in published if step[0] != "fence"]


def test_folder_that_can_not_be_synced_by_its_file_system_lands_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    publish(tmp_path, b"new")
    assert (tmp_path / TARGET).read_bytes() == b"new"


@pytest.mark.usefixtures("stages")
def test_longest_names_can_be_staged(tmp_path: Path) -> None:
    name = "x" * 251 + ".csv"
    publish(tmp_path, b"new", name)
    assert (tmp_path / name).read_bytes() == b"new"
    assert is_staged(staged_name(name))


def test_many_landings_into_new_folders_at_once_all_arrive(tmp_path: Path) -> None:
    threads = [threading.Thread(target=publish, args=(tmp_path / "a" / "b", b"x", f"c/{number}.csv")) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(list((tmp_path / "a" / "b" / "c").iterdir())) == 8


def test_manifests_folder_that_is_a_link_out_of_the_destination_is_refused(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "x.json").write_bytes(b"x")
    root.mkdir()
    (root / "_manifests").symlink_to(outside)
    with pytest.raises(ConfigurationError, match="leads out of the destination"):
        list(FileDestination(str(root))._storage.files(f"{root}/_manifests"))


@pytest.mark.parametrize(
    ("first", "second", "twin"),
    [
        ("purchases/2026-01-01.csv", "Purchases/2026-01-02.csv", "purchases"),
        ("sales/date=2026-01-01/events.csv", "SALES/date=2026-01-01/events.csv", "sales"),
        ("_unique/sales/latest.user.json", "_unique/sales/latest.USER.json", "latest.user.json"),
    ],
)
def test_names_that_differ_by_case_alone_share_no_file_on_a_disk_that_takes_them_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, second: str, twin: str
) -> None:
    destination, real = FileDestination(str(tmp_path)), os.stat
    destination.write(first, b"old")

    def stat(path: object, **options: bool) -> os.stat_result:
        return real(f"{tmp_path}{str(path).removeprefix(str(tmp_path)).lower()}", **options)

    with monkeypatch.context() as blind:
        blind.setattr(os, "stat", stat)
        blind.setattr(local, "_make_folder", lambda folder: None)  # it is there
        with pytest.raises(ConfigurationError, match=rf"this disk takes it for {twin}, which is there already\n"):
            destination.write(second, b"new")
        destination.write(first, b"new")
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"new"]
    destination.write(second, b"new")  # this disk takes them for two
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_name_that_no_message_can_hold_hides_no_other_file(tmp_path: Path) -> None:
    destination = FileDestination(str(tmp_path))
    destination.write("purchases/2026-01-01.csv", b"a")
    for name in (b"\xff.csv", b"\x1b[31m.csv", "\u202e.csv".encode()):
        (tmp_path / "purchases" / os.fsdecode(name)).touch()
    assert list(destination.files("purchases")) == [("purchases/2026-01-01.csv", 1)]


def test_what_is_kept_aside_may_lie_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: str) -> None:
    """As a file system without hard links does, or a machine without /proc."""
    for name in ("link", "rename"):
        monkeypatch.setattr(os, name, Mock(side_effect=OSError(errno.EXDEV, "Invalid cross-device link")))
    storage, data = FileDestination(str(tmp_path))._storage, os.urandom(3 * 1024 * 1024)
    with storage.stage(f"{tmp_path}/{TARGET}") as stage:
        stage.write(data)
        assert len(staged(tmp_path)) == (stages == "named")
        storage.publish(stage, f"{tmp_path}/_quarantine/{TARGET}")
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [data]


def test_staged_file_that_somebody_removed_lands_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    storage = FileDestination(str(tmp_path))._storage
    with storage.stage(f"{tmp_path}/{TARGET}") as stage:
        stage.write(b"new")
        [path] = staged(tmp_path)
        path.unlink()
        storage.publish(stage, f"{tmp_path}/{TARGET}")
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"new"]
