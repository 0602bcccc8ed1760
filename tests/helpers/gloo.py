"""Real gloo processes on this machine; none outlives the test."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
_RESULT = "RESULT "
_HUNG_S = 600.0  # a busy machine may take minutes


def emit(**values: Any) -> None:
    """Emit a result of a worker, which `Workers.results` returns."""
    print(_RESULT + json.dumps(values), flush=True)


class Workers:
    """A context manager: processes that run one script as ranks 0 ... world_size - 1."""

    def __init__(self, script: Path, world_size: int, *arguments: object, scratch: Path) -> None:
        self._logs = [scratch / f"{uuid.uuid4().hex}.log" for _ in range(world_size)]
        # Rendezvous by a file instead of a port, so that nothing collides.
        meeting = scratch / f"{uuid.uuid4().hex}.meeting"
        command = [sys.executable, str(script), *map(str, arguments)]
        self.processes = []
        for rank, log in enumerate(self._logs):
            environment = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_SIZE": str(world_size),
                "MEETING": str(meeting),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            }
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=scratch
                )
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill all."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def results(self, timeout: float = _HUNG_S) -> list[dict[str, Any]]:
        """The results of all workers, after all have exited with 0."""
        give_up = time.monotonic() + timeout
        while any(process.poll() is None for process in self.processes):
            if any(process.poll() for process in self.processes) or time.monotonic() > give_up:
                time.sleep(0.5)  # the other workers may print more
                break
            time.sleep(0.02)
        codes = [process.poll() for process in self.processes]
        texts = self._texts()
        assert codes == [0] * len(codes), f"exit codes {codes}\n" + "\n".join(
            f"--- rank {rank}\n{text[-4000:]}" for rank, text in enumerate(texts)
        )
        return self.emitted()

    def emitted(self) -> list[dict[str, Any]]:
        """The results so far, those of rank 0 first."""
        # A line without its end was cut by a kill.
        lines = [line for text in self._texts() for line in text.splitlines(keepends=True)]
        whole = [line for line in lines if line.startswith(_RESULT) and line.endswith("\n")]
        return [json.loads(line.removeprefix(_RESULT)) for line in whole]

    def _texts(self) -> list[str]:
        return [log.read_text(errors="replace") for log in self._logs]


def run(
    script: Path, world_size: int, *arguments: object, scratch: Path, timeout: float = _HUNG_S
) -> list[dict[str, Any]]:
    """Run a worker script on `world_size` ranks; returns what it emitted."""
    with Workers(script, world_size, *arguments, scratch=scratch) as workers:
        return workers.results(timeout)
