"""Work on chunks in order, in threads or in none, what becomes of the rest after a failure, and the buffers that come back."""

from __future__ import annotations

import hashlib
import io
import threading

import pytest

from keen_pipeline.landing.transfer.direct import AlignedBuffer
from keen_pipeline.landing.transfer.workers import CHUNK_BYTES, BufferedFileWriter, Chunk, Workers


def numbered(number: int) -> Chunk:
    return Chunk(b"", number, number)


def test_a_single_chunk_needs_no_thread() -> None:
    threads: list[threading.Thread] = []
    workers = Workers(2, test=lambda chunk: threads.append(threading.current_thread()))
    workers.put(numbered(1))
    assert threads == []
    workers.close()
    assert threads == [threading.current_thread()]


def test_several_are_done_in_order_in_threads_that_end() -> None:
    done: dict[str, list[tuple[int, str]]] = {"one": [], "two": []}

    def noting(name: str, chunk: Chunk) -> None:
        done[name].append((chunk.start, threading.current_thread().name))

    workers = Workers(4, one=lambda chunk: noting("one", chunk), two=lambda chunk: noting("two", chunk))
    for number in range(20):
        workers.put(numbered(number))
    workers.close()
    workers.stop()
    for name, found in done.items():
        assert found == [(number, f"landing-{name}_0") for number in range(20)]
    assert not any(thread.name.startswith("landing-") for thread in threading.enumerate())


@pytest.mark.parametrize("chunks", [1, 3])
def test_after_a_failure_nothing_more_is_done_and_the_failure_is_raised(chunks: int) -> None:
    gate, tried = threading.Event(), list[int]()

    def work(chunk: Chunk) -> None:
        gate.wait(30)
        tried.append(chunk.start)
        raise OSError(28, "No space left on device")

    workers = Workers(4, test=work)
    for number in range(chunks):
        workers.put(numbered(number))
    gate.set()
    with pytest.raises(OSError, match="No space"):
        workers.close()
    workers.stop()
    assert workers.failed
    assert tried == [0]


def test_buffers_come_back_and_are_no_more_than_wanted() -> None:
    seen: set[int] = set()
    workers = Workers(2, test=lambda chunk: None)
    for _ in range(20):
        buffer = workers.buffer()
        seen.add(id(buffer))
        workers.put(Chunk(buffer.memory, buffer.start, buffer.start, buffer))
    workers.close()
    assert len(seen) == 2


def test_file_gets_what_was_written_in_whole_buffers() -> None:
    lengths: list[int] = []

    class File(io.BytesIO):
        def write(self, data: object) -> int:
            lengths.append(len(memoryview(data)))  # type: ignore[arg-type]
            return super().write(data)  # type: ignore[arg-type]

    file, data = File(), AlignedBuffer(3 * CHUNK_BYTES).view.tobytes() + b"end"
    writer = BufferedFileWriter(file)
    for at in range(0, len(data), 300_000):
        writer.write(data[at : at + 300_000])
    writer.finish()
    assert file.getvalue() == data
    assert lengths == [CHUNK_BYTES] * 3 + [3]
    assert (writer.tell(), writer.sha256()) == (len(data), hashlib.sha256(data).hexdigest())
