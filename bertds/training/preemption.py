"""Preemption: signals and the time limit of a job, and what the user is told about them."""

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from bertds.distributed.world import World


class PreemptionSignal:
    """Whether this process was asked to stop, by a signal or by `run.max_hours`."""

    def __init__(self) -> None:
        self._signal = ""
        self._created = time.monotonic()
        self._deadline: float | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator["PreemptionSignal"]:
        """Treat SIGTERM, SIGUSR1 and the first Ctrl-C as a request; a second Ctrl-C interrupts."""
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == signal.SIGINT and self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name

    def set_deadline(self, max_hours: float | None) -> None:
        """Set the time limit, counted from the creation of this object, not from a run's start."""
        self._deadline = None if max_hours is None else self._created + 3600 * max_hours

    def is_set(self) -> bool:
        """Whether to stop after this step, and to start no further run."""
        return bool(self._signal) or self._is_late()

    def reason(self) -> str:
        """What asked to stop: a signal, the time limit, or else another rank."""
        if self._signal:
            return "Ctrl-C" if self._signal == "SIGINT" else self._signal
        return "the time limit run.max_hours" if self._is_late() else "another rank"

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline


def resume_advice(world: World) -> str:
    """What resumes a preempted run: the same command, with the same launcher."""
    if hasattr(sys, "ps1"):  # an interpreter or a notebook
        return "to resume, train the same case again"
    if world.launcher == "none":
        return f"to resume, run again: {shlex.join(sys.orig_argv)}"
    # deepspeed adds the rank to the arguments.
    arguments = [each for each in sys.argv if not each.startswith(("--local_rank", "--local-rank"))]
    return f"to resume, run the same {world.launcher} command again: … {shlex.join(arguments)}"
