"""Ends a process that stands still, with what it was doing: a hang is never silent.

A collective that does not return fails by itself after `run.collective_timeout_s`. What else may
hang (a file system, a lock, a process that computes for ever) is seen here: a thread waits for signs
of life and, `MARGIN_S` after that time-out, prints the stacks of all threads and one sentence, and
ends the process. The launcher ends the others. A sign of life costs a microsecond.
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
    """A thread that ends this process when it stands still; to be used in a `with`."""

    def __init__(self, world: World, timeout_s: float, on_timeout: Callable[[str], None]) -> None:
        """Watch from `__enter__` to `__exit__`.

        Args:
            world: This process.
            timeout_s: Seconds without a sign of life, `MARGIN_S` excluded.
            on_timeout: Is given the sentence before the end, for a status file; it may hang.
        """
        self._world, self._timeout_s, self._on_timeout = world, timeout_s, on_timeout
        self._seen = (time.monotonic(), "starting", 0)
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.heartbeat(self._seen[1])
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def heartbeat(self, phase: str, step: int | None = None) -> None:
        """A sign of life.

        Args:
            phase: What begins now: "loading a checkpoint".
            step: The step it belongs to; that of before if not given.
        """
        self._seen = (time.monotonic(), phase, self._seen[2] if step is None else step)

    def through(self, items: Iterable[Item], phase: str) -> Iterator[Item]:
        """The items, with a sign of life at each."""
        self.heartbeat(phase)
        for item in items:
            yield item
            self.heartbeat(phase)

    def _watch(self) -> None:
        limit = self._timeout_s + MARGIN_S
        while not self._ended.wait(min(1.0, limit / 10)):
            since, phase, step = self._seen
            if time.monotonic() - since > limit:
                self._end(phase, step, limit)

    def _end(self, phase: str, step: int, limit: float) -> None:
        # Whatever hangs below, on a dead file system say, does not hold up the end.
        threading.Timer(_CALLBACK_S, os._exit, (ExitCode.RANK_FAILURE,)).start()
        sentence = (
            f"process {self._world.rank} on {socket.gethostname()} stood still for {limit:.0f} s "
            f"while {phase} (step {step}); the stacks above say where; run the same command again "
            "to go on, or raise run.collective_timeout_s"
        )
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - whatever the log's level
        with contextlib.suppress(OSError, ValueError):
            self._on_timeout(sentence)
        os._exit(ExitCode.RANK_FAILURE)
