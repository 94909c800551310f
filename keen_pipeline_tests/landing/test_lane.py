"""A lane's work in order, in one thread or in none, and what becomes of the rest after a failure."""

from __future__ import annotations

import threading

import pytest

from keen_pipeline.landing.transfer.lane import Lane


def test_a_single_item_needs_no_thread() -> None:
    threads: list[threading.Thread] = []
    lane = Lane("test", lambda item: threads.append(threading.current_thread()), print)
    lane.put(1)
    assert threads == []
    lane.close()
    assert threads == [threading.current_thread()]


def test_several_are_done_in_order_in_a_thread_that_ends() -> None:
    done: list[tuple[int, str]] = []
    lane = Lane("test", lambda item: done.append((item, threading.current_thread().name)), print)
    for number in range(20):
        lane.put(number)
    lane.close()
    lane.stop()
    assert done == [(number, "landing-test") for number in range(20)]
    assert not any(thread.name == "landing-test" for thread in threading.enumerate())


@pytest.mark.parametrize("items", [1, 3])
def test_after_a_failure_the_rest_is_dropped_and_the_failure_raised(items: int) -> None:
    gate, dropped = threading.Event(), list[int]()

    def work(item: int) -> None:
        gate.wait(30)
        raise OSError(28, "No space left on device")

    lane = Lane("test", work, dropped.append)
    for number in range(items):
        lane.put(number)
    gate.set()
    with pytest.raises(OSError, match="No space"):
        lane.close()
    with pytest.raises(OSError, match="No space"):
        lane.put(9)
    assert dropped == list(range(1, items))
