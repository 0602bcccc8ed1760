"""Compares programs in separate processes that take turns, so that noise affects all of them alike.

A worker reads a line, runs one turn and answers with one JSON line. Only one worker runs at a time.
Each round gives a ratio of two rates. The result is the median of the ratios with their range.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Turn = Callable[[], dict[str, float]]


@dataclass(slots=True)
class Contestant:
    """A worker program and the results of its turns."""

    name: str
    command: list[str]
    """`PYTHON -m MODULE ARGUMENT…`; modules of this repository can be imported."""
    threads: int
    rates: list[float] = field(default_factory=list)
    """Non-padding tokens/s of each turn."""
    cpu_rates: list[float] = field(default_factory=list)
    """Non-padding tokens per second of processor time: less sensitive to other load."""
    answers: list[dict[str, float]] = field(default_factory=list)
    """The complete answer to each turn."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What the worker reports about itself at startup."""
    _process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Start the worker and wait until it has warmed up."""
        environment = os.environ | {
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # its process pool would read our stdin
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.metadata = self._read_answer()

    def run_turn(self) -> None:
        """Run one turn and store its rates."""
        assert self._process is not None and self._process.stdin is not None
        print("turn", file=self._process.stdin, flush=True)
        answer = self._read_answer()
        self.answers.append(answer)
        self.rates.append(answer["tokens"] / answer["seconds"])
        self.cpu_rates.append(answer["tokens"] / answer["cpu_seconds"])

    def stop(self) -> None:
        """End the worker."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _read_answer(self) -> dict:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print other lines during import
                return json.loads(line)
        code = self._process.wait()
        raise ChildProcessError(f"{self.name} exited with code {code}: see its output above")


def run_rounds(contestants: list[Contestant], rounds: int) -> None:
    """Start all workers, then give each one turn per round, in alternating order."""
    try:
        for contestant in contestants:
            contestant.start()
        for number in range(rounds):
            for contestant in contestants if number % 2 else reversed(contestants):
                contestant.run_turn()
                rate = f"{contestant.name}: {contestant.rates[-1]:,.0f} tokens/s"
                print(f"  {rate}", file=sys.stderr, flush=True)
    finally:
        for contestant in contestants:
            contestant.stop()


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum over the rounds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarize values."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.minimum:.2f}-{self.maximum:.2f})"


def ratio(ours: list[float], theirs: list[float]) -> Spread:
    """Divide our rates by theirs, round by round."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


class Stopwatch:
    """Adds up wall time and processor time (all threads) spent in its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start[0]
        self.cpu_seconds += time.process_time() - self._start[1]

    def answer(self, tokens: float) -> dict[str, float]:
        """Return the answer to a turn that processed `tokens` non-padding tokens."""
        return {"tokens": tokens, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}


def serve(prepare: Callable[[], tuple[dict[str, str], Turn]]) -> None:
    """Run the worker's side: warm up with one turn, then answer one turn per line of stdin.

    Args:
        prepare: Returns the metadata of the worker, and its turn. A turn returns `tokens`,
            `seconds` and `cpu_seconds`.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout; send that to stderr
    metadata, run_turn = prepare()
    run_turn()
    print(json.dumps(metadata), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(run_turn()), file=answers, flush=True)
