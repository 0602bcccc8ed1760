"""Where a step's time goes, and how much memory it took: measured without waiting for the device.

On CUDA the marks are events, whose distances are asked for at a log point, or a while after the
device has passed them, so that their number is bounded; on CPU they are readings of the clock.
"""

import time
from collections import deque

import torch

Mark = float | torch.cuda.Event
_MOST_SPANS = 1024  # that wait to be added up, unless the device is further behind


class StepTimer:
    """Seconds of each part of the steps since they were last told."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: deque[tuple[str, Mark, Mark]] = deque()
        self._sums: dict[str, float] = {}
        self._last = self._now()

    def start(self) -> None:
        """What came before belongs to no part."""
        self._last = self._now()

    def mark(self, part: str) -> None:
        """A part ends here that began at the mark before."""
        now = self._now()
        self._spans.append((part, self._last, now))
        self._last = now
        while len(self._spans) > _MOST_SPANS and _is_passed(self._spans[0][2]):
            self._add_oldest()

    def seconds(self) -> dict[str, float]:
        """The sums by part, which begin anew; waits for the last mark."""
        if not isinstance(self._last, float):
            self._last.synchronize()
        while self._spans:
            self._add_oldest()
        sums, self._sums = self._sums, {}
        return sums

    def _add_oldest(self) -> None:
        part, begin, end = self._spans.popleft()
        self._sums[part] = self._sums.get(part, 0.0) + _between(begin, end)

    def _now(self) -> Mark:
        if not self._on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _is_passed(mark: Mark) -> bool:
    """Whether the device is past it; does not wait."""
    return isinstance(mark, float) or bool(mark.query())  # type: ignore[no-untyped-call]


def _between(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float) and isinstance(end, float)
        return end - begin
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds / 1000
