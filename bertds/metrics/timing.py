"""Measures how long each phase of a step takes, without waiting for the device.

On CUDA the marks are events. Their elapsed times are read at a log point, or as soon as the device
has passed them and many are pending, so that their number is bounded. On the CPU they are clock
readings.
"""

import time
from collections import deque

import torch

Mark = float | torch.cuda.Event
_MAX_PENDING = (
    1024  # intervals not yet added up; exceeded only while the device lags further behind
)


class StepTimer:
    """Seconds of each phase of the steps since the last call of `seconds`."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pending: deque[tuple[str, Mark, Mark]] = deque()
        self._sums: dict[str, float] = {}
        self._last = self._now()

    def start(self) -> None:
        """Start the first phase here; time before this call is not counted."""
        self._last = self._now()

    def mark(self, phase: str) -> None:
        """End a phase, which began at the previous mark."""
        now = self._now()
        self._pending.append((phase, self._last, now))
        self._last = now
        while len(self._pending) > _MAX_PENDING and _is_passed(self._pending[0][2]):
            self._add_oldest()

    def seconds(self) -> dict[str, float]:
        """Return the sum of each phase and reset all sums; waits for the last mark."""
        if not isinstance(self._last, float):
            self._last.synchronize()
        while self._pending:
            self._add_oldest()
        sums, self._sums = self._sums, {}
        return sums

    def _add_oldest(self) -> None:
        phase, begin, end = self._pending.popleft()
        if isinstance(begin, float) or isinstance(end, float):
            assert isinstance(begin, float) and isinstance(end, float)
            seconds = end - begin
        else:
            seconds = begin.elapsed_time(end) / 1000
        self._sums[phase] = self._sums.get(phase, 0.0) + seconds

    def _now(self) -> Mark:
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _is_passed(mark: Mark) -> bool:
    """Whether the device has passed the mark; does not wait."""
    return isinstance(mark, float) or bool(mark.query())  # type: ignore[no-untyped-call]
