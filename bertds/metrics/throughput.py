"""How fast a run is: tokens per second, and the share of the device's arithmetic that it uses."""

import math
import time
from collections.abc import Callable


class Throughput:
    """Tokens per second between two log points, by a clock that is never set back."""

    def __init__(self, tokens: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts to count at `tokens`, the tokens seen so far (not 0 after a resume)."""
        self._clock = clock
        self._tokens, self._time = tokens, clock()

    def restart(self, tokens: int) -> None:
        """Starts a new span here, so that validation or saving before it does not count."""
        self._tokens, self._time = tokens, self._clock()

    def measure(self, tokens: int) -> float:
        """Ends the span at `tokens` seen in all, returns its tokens/s, and starts the next."""
        now = self._clock()
        span, seen = now - self._time, tokens - self._tokens
        self._tokens, self._time = tokens, now
        return seen / span if span > 0 else math.nan
