"""Contestants in processes of their own that take turns, so that noise falls on all alike.

A worker reads a line, does a turn, and answers with one JSON line; nobody else works meanwhile. The
figure of a round is the ratio of rates of its turns; the result is their median, least and most.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(slots=True)
class Contestant:
    """A worker program and what its turns gave."""

    name: str
    command: list[str]
    threads: int
    rates: list[float] = field(default_factory=list)
    """Real tokens a second, turn by turn."""
    cpu_rates: list[float] = field(default_factory=list)
    """Real tokens a second of processor time, which other programs on the machine disturb less."""
    answers: list[dict[str, float]] = field(default_factory=list)
    """All that the worker told of each turn."""
    facts: dict[str, str] = field(default_factory=dict)
    """What the worker says of itself, once."""
    _process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Start the worker and wait until it has warmed up."""
        environment = os.environ | {
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # its pool would read the orders
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        }
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._answer()

    def turn(self) -> None:
        """One turn; its rates are kept."""
        assert self._process is not None and self._process.stdin is not None
        print("turn", file=self._process.stdin, flush=True)
        done = self._answer()
        self.answers.append(done)
        self.rates.append(done["tokens"] / done["seconds"])
        self.cpu_rates.append(done["tokens"] / done["cpu_seconds"])

    def stop(self) -> None:
        """End the worker."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _answer(self) -> dict:
        assert self._process is not None and self._process.stdout is not None
        line = "-"
        while line and not line.startswith("{"):  # what libraries print while they are imported
            line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"{self.name} ended with {self._process.wait()}")
        return json.loads(line)


def take_turns(contestants: list[Contestant], rounds: int) -> None:
    """All start, then all take their turns, in changing order."""
    try:
        for one in contestants:
            one.start()
        for number in range(rounds):
            for one in contestants if number % 2 else reversed(contestants):
                one.turn()
                print(f"  {one.name}: {one.rates[-1]:,.0f} tokens/s", file=sys.stderr, flush=True)
    finally:
        for one in contestants:
            one.stop()


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Of these values."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.most:.2f})"


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """Ours over theirs, round by round."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


class Stopwatch:
    """Seconds and processor seconds (of all threads) of what stands in its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began[0]
        self.cpu_seconds += time.process_time() - self._began[1]


def serve(prepare: Callable[[], tuple[dict[str, str], Callable[[], dict[str, float]]]]) -> None:
    """The worker's side.

    Args:
        prepare: Gives what the worker says of itself, and its turn: what one call does is told as
            `tokens`, `seconds` and `cpu_seconds`.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    facts, turn = prepare()
    turn()
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers, flush=True)


def figures(tokens: float, watch: Stopwatch, factor: float = 1.0) -> dict[str, float]:
    """What a turn gives back; `factor` weighs the time."""
    return {
        "tokens": tokens,
        "seconds": watch.seconds * factor,
        "cpu_seconds": watch.cpu_seconds * factor,
    }
