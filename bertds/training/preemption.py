"""Preemption: signals and the time limit of a job."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType


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
        is_late = self._deadline is not None and time.monotonic() > self._deadline
        return bool(self._signal) or is_late
