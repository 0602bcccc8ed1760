"""Runs parts in processes of their own, each with a time limit, and writes a line as each one ends.

The parts of a group start together and prepare side by side: they import, build and compile. A part
that measures then waits for its turn, in which no other part of its group prepares or measures.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu_once.worker import READY, REASON, RESULT

ROOT = Path(__file__).resolve().parents[2]
TAIL = 30  # lines of output of a part that failed
LEAST = 5.0  # seconds; with less time left a part is not started


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A program that reports one result."""

    name: str
    module: str
    arguments: Sequence[str]
    limit: float
    """Seconds until it has ended, or waits for its turn."""
    turn: float | None = None
    """Seconds of its turn. None: it measures nothing that others would disturb."""
    environment: dict[str, str] = field(default_factory=dict)


class Turns:
    """Lets one part at a time measure, once all parts of the group are prepared or have ended."""

    def __init__(self, preparing: int) -> None:
        self._condition = threading.Condition()
        self._preparing = preparing
        self._is_taken = False

    def prepared(self) -> None:
        """Count a part that is prepared, or has ended before."""
        with self._condition:
            self._preparing -= 1
            self._condition.notify_all()

    def take(self) -> None:
        """Wait for the turn."""
        with self._condition:
            self._condition.wait_for(lambda: self._preparing == 0 and not self._is_taken)
            self._is_taken = True

    def give_back(self) -> None:
        """End the turn."""
        with self._condition:
            self._is_taken = False
            self._condition.notify_all()


class Run:
    """One part as it runs."""

    def __init__(self, part: Part, turns: Turns, deadline: float, threads: int) -> None:
        self._part, self._turns, self._deadline = part, turns, deadline
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._result: dict[str, Any] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._is_prepared = self._has_turn = self._is_late = False
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",  # the device computes, and other parts run beside
            "TORCHINDUCTOR_COMPILE_THREADS": str(threads),
            **part.environment,
        }

    def line(self) -> dict[str, Any]:
        """Run the part to its end or its limit; return its line."""
        begin = time.monotonic()
        command = [sys.executable, "-m", self._part.module, *self._part.arguments]
        process = self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
            env=self._environment,
            start_new_session=True,
        )
        try:
            self._follow(process)
        finally:
            if not self._is_prepared:
                self._turns.prepared()
            if self._has_turn:
                self._turns.give_back()
        return self._make_line(process.wait(), time.monotonic() - begin)

    def kill(self) -> None:
        """End the part with all that it started, if it runs."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _follow(self, process: "subprocess.Popen[str]") -> None:
        """Read the output to its end; at READY wait for the turn."""
        assert process.stdin is not None and process.stdout is not None
        timer = self._start_timer(self._part.limit)
        for text in process.stdout:
            line = text.rstrip("\n")
            if line.startswith(RESULT):
                self._result = json.loads(line.removeprefix(RESULT))
            elif line == READY:
                timer.cancel()
                timer = self._take_turn(process.stdin)
            elif line:
                self._tail.append(line)
        process.wait()
        timer.cancel()

    def _take_turn(self, stdin: IO[str]) -> threading.Timer:
        self._is_prepared = True
        self._turns.prepared()
        self._turns.take()
        self._has_turn = True
        stdin.write("go\n")
        stdin.flush()
        assert self._part.turn is not None
        return self._start_timer(self._part.turn)

    def _start_timer(self, limit: float) -> threading.Timer:
        def end() -> None:
            self._is_late = True
            self.kill()

        seconds = max(0.0, min(limit, self._deadline - time.monotonic()))
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        return timer

    def _make_line(self, code: int, seconds: float) -> dict[str, Any]:
        line: dict[str, Any] = {"part": self._part.name, "seconds": round(seconds, 1)}
        if self._is_late:
            line["status"] = "timeout"
        elif code != 0 or self._result is None:
            line["status"] = "failed"
        else:
            line["status"] = "skipped" if REASON in self._result else "ok"
        if self._result is not None:
            line["result"] = self._result
        if line["status"] in ("timeout", "failed"):
            line |= {"code": code, "output": list(self._tail)}
        return line


def run_group(
    parts: Sequence[Part],
    *,
    jobs: int,
    deadline: float,
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Run the parts of a group side by side, `jobs` of them at a time.

    Args:
        parts: The parts.
        jobs: Processes at a time.
        deadline: When all must have ended, by `time.monotonic`.
        write: Takes a line as soon as its part has ended.
    """
    for first in range(0, len(parts), jobs):
        some = parts[first : first + jobs]
        if deadline - time.monotonic() < LEAST:
            for part in some:
                result = {REASON: "no time was left"}
                write({"part": part.name, "status": "skipped", "result": result})
            continue
        turns, threads = Turns(len(some)), max(1, jobs // len(some))
        runs = [Run(part, turns, deadline, threads) for part in some]
        workers = [threading.Thread(target=lambda run=run: write(run.line())) for run in runs]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:  # a signal ended this program
            for run in runs:
                run.kill()
