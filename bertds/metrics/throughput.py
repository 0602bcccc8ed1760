"""Throughput in tokens per second."""

import math
import time
from collections.abc import Callable


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
