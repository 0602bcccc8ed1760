"""Prefetching: a thread computes the next items while the caller works on the current one."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterator[Item], depth: int = 2) -> Iterator[Item]:
    """Yield items that a thread computes, up to `depth` items ahead.

    An exception in the thread is raised here. The thread ends if the caller stops early.
    """
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            put(error)

    threading.Thread(target=work, daemon=True, name="prefetch").start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
