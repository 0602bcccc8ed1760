"""Where a step's time goes, and how much memory it took: measured without waiting for the device.

On CUDA the marks are events, whose distances are asked for at a log point, or a while after the
device has passed them, so that their number is bounded; on CPU they are readings of the clock.
"""

import resource
import sys
import time
from collections import deque

import torch

Mark = float | torch.cuda.Event

_MOST_SPANS = 1024  # that wait to be added up, unless the device is further behind
_PRODUCTS = 3  # of a size, whose fastest counts
_MEASURING_S = 0.5  # what those of the largest size are expected to take at most


class StepClock:
    """Seconds of each part of the steps since they were last told."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: deque[tuple[str, Mark, Mark]] = deque()
        self._sums: dict[str, float] = {}
        self._last = self._now()

    def start(self) -> None:
        """What came before belongs to no part."""
        self._last = self._now()

    def ends(self, part: str) -> None:
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


def peak_memory_gb(device: torch.device) -> float:
    """The most that this process has held so far: of the device's memory, or (CPU) in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Matrix products' FLOP/s of this process, the best of a few: a peak for MFU.

    The matrices grow as long as it takes less than a second in all: on a GPU a small product
    takes as long as its launch, and a CPU without instructions for bf16 needs seconds for a large one.
    """
    sides = [2**power for power in range(8, 14 if device.type == "cuda" else 11)]
    rate = 0.0
    for side in sides:
        operations = 2 * side**3
        if rate and _PRODUCTS * operations / rate > _MEASURING_S:
            break
        rate = max(rate, operations / min(_product_times(device, dtype, side)))
    return rate


def _product_times(device: torch.device, dtype: torch.dtype, side: int) -> list[float]:
    """Seconds of some products of square matrices, after one that prepares the kernel."""
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    clock = StepClock(device)
    times = []
    for _ in range(_PRODUCTS):
        clock.start()
        left @ right
        clock.ends("product")
        times.append(clock.seconds()["product"])
    return times
