"""Ends a process that hangs, and reports what it was doing.

A collective that does not return fails by itself after `run.collective_timeout_s`. Other hangs (a
file system, a lock, an endless computation) are found here. A thread waits for heartbeats. If none
comes until `MARGIN_S` after that timeout, it prints the stacks of all threads and one error message,
and ends the process. The launcher then ends the other ranks. A heartbeat costs a microsecond.
"""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeVar

from bertds.distributed.world import World
from bertds.errors import ExitCode

MARGIN_S = 5.0
_CALLBACK_S = 5.0
Item = TypeVar("Item")


class Watchdog:
    """A context manager with a thread that ends this process when it hangs."""

    def __init__(self, world: World, timeout_s: float, on_timeout: Callable[[str], None]) -> None:
        """Prepare the thread, which runs from `__enter__` to `__exit__`.

        Args:
            world: This process.
            timeout_s: Seconds without a heartbeat, without `MARGIN_S`.
            on_timeout: Receives the error message, to write a status file; it may hang itself.
        """
        self._world, self._timeout_s, self._on_timeout = world, timeout_s, on_timeout
        self._last = (time.monotonic(), "starting", 0)
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        self.heartbeat(self._last[1])
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def heartbeat(self, phase: str, step: int | None = None) -> None:
        """Signal that the process is alive.

        Args:
            phase: What begins now, such as "loading a checkpoint".
            step: Its step; the step of the last heartbeat if not given.
        """
        self._last = (time.monotonic(), phase, self._last[2] if step is None else step)

    def through(self, items: Iterable[Item], phase: str) -> Iterator[Item]:
        """Yield the items, with a heartbeat at each."""
        self.heartbeat(phase)
        for item in items:
            yield item
            self.heartbeat(phase)

    def _watch(self) -> None:
        limit = self._timeout_s + MARGIN_S
        while not self._stopped.wait(min(1.0, limit / 10)):
            since, phase, step = self._last
            if time.monotonic() - since > limit:
                self._end(phase, step, limit)

    def _end(self, phase: str, step: int, limit: float) -> None:
        # Whatever hangs below, for example on a dead file system, must not delay the end.
        threading.Timer(_CALLBACK_S, os._exit, (ExitCode.RANK_FAILURE,)).start()
        message = (
            f"rank {self._world.rank} on {socket.gethostname()} hung for {limit:.0f} s while {phase} "
            f"(step {step}); the stacks above show where; run the same command again to resume, or "
            "raise run.collective_timeout_s"
        )
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            print(message, file=sys.stderr, flush=True)  # noqa: T201 - whatever the log level
        with contextlib.suppress(OSError, ValueError):
            self._on_timeout(message)
        os._exit(ExitCode.RANK_FAILURE)
