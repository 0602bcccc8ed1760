"""Throughput in tokens per second, and the time that a run still needs."""

import math
import time
from collections import deque
from collections.abc import Callable

_RECENT = 20  # log points


class Throughput:
    """Tokens per second between two log points, measured with a monotonic clock."""

    def __init__(self, tokens: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at `tokens`, the tokens seen so far (not 0 after a resume)."""
        self._clock = clock
        self._tokens, self._time = tokens, clock()

    def restart(self, tokens: int) -> None:
        """Start a new interval, so that validating or saving before it does not count."""
        self._tokens, self._time = tokens, self._clock()

    def measure(self, tokens: int) -> float:
        """End the interval at `tokens` seen in total, return its tokens/s, and start the next."""
        now = self._clock()
        seconds, new_tokens = now - self._time, tokens - self._tokens
        self._tokens, self._time = tokens, now
        return new_tokens / seconds if seconds > 0 else math.nan


class TimeLeft:
    """Estimates how long a run still takes, from the time between its last log points.

    That time includes validating and saving, which the rest of the run does as well.
    """

    def __init__(
        self, step: int, num_steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start at `step` of `num_steps` (not 0 after a resume)."""
        self._clock, self._num_steps = clock, num_steps
        self._points = deque([(step, clock())], maxlen=_RECENT + 1)

    def measure(self, step: int) -> float:
        """Add a log point at `step`, and return the seconds from there to the end."""
        self._points.append((step, self._clock()))
        (first_step, start), (_, now) = self._points[0], self._points[-1]
        if step == first_step:
            return math.nan
        return (self._num_steps - step) * (now - start) / (step - first_step)
