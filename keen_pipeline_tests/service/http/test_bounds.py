"""The storage at the bounds of the machine, each service in a process of its own that has only so much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAD = """
import json, resource, sys, threading, time
from pathlib import Path
from keen_pipeline.errors import KeenPipelineError
from keen_pipeline.service.storage.engine import DiskFullError
from keen_pipeline_tests.service.stores import *
place = Place(Path(sys.argv[1]))
number_of = int(sys.argv[2])
def tell(**facts):
    print(json.dumps(facts), flush=True)
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
"""


def run(folder: Path, number: int, body: str, seconds: float = 120) -> dict[str, Any]:
    """The facts that a script tells at its end."""
    done = subprocess.run([sys.executable, "-c", HEAD + body, str(folder), str(number)], capture_output=True, timeout=seconds)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return found


DESCRIPTORS = """
resource.setrlimit(resource.RLIMIT_NOFILE, (64 if number_of < 1000 else 256,) * 2)
service = place.open(memory_mib=256)
for n in range(number_of):
    assert service.add_events(f"shop-{n}", [{"n": n}]) == [None]
for n in range(0, number_of, 7):
    assert events(service, f"shop-{n}")[0]["n"] == n
    service.add_events(f"shop-{n}", [{"n": n}])
place.close()
service = place.open(memory_mib=256, fold_seconds=0.1 if number_of < 1000 else 30)
counted = [number(service, f"shop-{n}") for n in range(number_of)]
tell(right=counted == [2 if n % 7 == 0 else 1 for n in range(number_of)], names=len(service.store.names()))
place.close()
"""


def test_collections_take_no_descriptors(tmp_path: Path) -> None:
    assert run(tmp_path, 150, DESCRIPTORS) == {"right": True, "names": 150}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_2000_collections_with_256_descriptors(tmp_path: Path) -> None:
    assert run(tmp_path, 2000, DESCRIPTORS, 800) == {"right": True, "names": 2000}


DISK = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
service = place.open(fold_seconds=0.2)
service.add_events("shop", [{"n": n, "text": "x" * 1000} for n in range(300)])
fold(service, "shop")
service.add_events("shop", [{"n": n, "text": "x" * 1000} for n in range(300, 600)])
resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, resource.RLIM_INFINITY))
taken, errors = 600, []
import os
for n in range(600, 700):
    try:
        service.add_events("shop", [{"n": n, "text": os.urandom(10_000).hex()}])
        taken += 1
    except KeenPipelineError as error:
        errors.append(type(error).__name__)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
rule = {"property_name": "n", "operator": "eq", "property_value": 1}
for action in (lambda: service.add_events("shop", [{"n": 0}]), lambda: service.add_events("new", [{"n": 0}]),
               lambda: fold(service, "shop"), lambda: delete(service, "shop", rule)):
    try:
        action()
        errors.append("none")
    except KeenPipelineError as error:
        errors.append(type(error).__name__)
reads = number(service, "shop")
third = number(service, "shop", {"property_name": "n", "operator": "lt", "property_value": 300})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
assert service.add_events("shop", [{"n": 1000}]) == [None]
fold(service, "shop")
place.close()
again = place.open()
tell(errors=sorted(set(errors)), reads=reads == taken, third=third, again=number(again, "shop") == taken + 1)
place.close()
"""


def test_a_full_disk_is_an_error_to_retry_and_what_is_there_is_read(tmp_path: Path) -> None:
    assert run(tmp_path, 0, DISK) == {"errors": ["DiskFullError"], "reads": True, "third": 300, "again": True}


MEMORY = """
size, total, memory = number_of, int(place.folder.name.split("-")[1]) * 2**20, 512
service = place.open(memory_mib=memory, fold_seconds=0.5, max_event_bytes=900_000)
base, sent, batch = peak_mib(), 0, max(1, 4_000_000 // size)
texts = [("%06d" % n) * (size // 6) for n in range(7)]
late = []
while sent * size < total:
    try:
        service.add_events("large", [{"n": sent + n, "text": texts[(sent + n) % 7] + str(sent + n)} for n in range(batch)])
        sent += batch
    except KeenPipelineError as error:
        late.append(type(error).__name__)
        time.sleep(0.2)
    if sent % (batch * 10) == 0:
        assert number(service, "large", {"property_name": "n", "operator": "gte", "property_value": 0}) == sent
found = number(service, "large", {"property_name": "text", "operator": "contains", "property_value": "000003000003"})
with service.store.snapshot("large") as snapshot, service.engine.cursor() as cursor:
    written = write_csv(cursor, Selection(snapshot, (), None, "v2"), place.folder / "out.csv")
deleted = delete(service, "large", {"property_name": "n", "operator": "lt", "property_value": sent // 50})
tell(read=found == len([n for n in range(sent) if n % 7 == 3]), written=written == sent, deleted=deleted == sent // 50,
     left=number(service, "large") == sent - deleted, late=sorted(set(late)), grown=peak_mib() - base)
place.close()
"""


@pytest.mark.parametrize("size", [20_000, 880_000])
def test_large_events_are_stored_read_and_deleted_in_bounded_memory(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "mib-40"
    folder.mkdir()
    facts = run(folder, size, MEMORY)
    assert facts.pop("grown") < 1024
    assert set(facts.pop("late")) <= {"ServiceUnavailableError"}
    assert facts == dict.fromkeys(("read", "written", "deleted", "left"), True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", [20_000, 880_000])
def test_a_gigabyte_of_large_events(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "mib-1000"
    folder.mkdir()
    facts = run(folder, size, MEMORY, 1000)
    assert facts.pop("grown") < 1024
    assert set(facts.pop("late")) <= {"ServiceUnavailableError"}
    assert facts == dict.fromkeys(("read", "written", "deleted", "left"), True)
