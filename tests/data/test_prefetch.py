"""Prefetching by a thread: all items, few items ahead, no thread left."""

import threading
import time

import pytest

from bertds.data.prefetch import prefetch


def num_prefetch_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    deadline = time.monotonic() + 5
    while num_prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_prefetch_threads() == 0


def test_all_items_come_in_order():
    assert list(prefetch(iter(range(100)))) == list(range(100))


def test_the_thread_stays_few_items_ahead():
    computed = []
    items = prefetch((computed.append(number) or number for number in range(100)), depth=2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(computed) <= 5
    items.close()


def test_an_error_is_raised_after_the_items_before_it():
    def failing():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    items = prefetch(failing())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
