"""Soak test: random faults for most of an hour, then a comparison with a run without faults.

    python -m benchmarks.fault_injection.soak --work DIR [--minutes 45] [--every 20] [--seed 0]

Two processes train on the generated corpus and write to a file system of 32 MB. Every `--every` seconds
on average (exponentially distributed), one of the faults of `faults.py` strikes. A supervisor starts the
same command again whenever the launcher exits. After `--minutes` the faults stop and the run is asked to
end. Then an undisturbed run trains the same number of steps. Weights and moments must be bit-exact and
the metrics equal. No process may be left over, and memory must be constant. An interrupted soak resumes
from its events. The report is `results/soak.md`.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fault_injection.faults import (
    MARK,
    Faults,
    marked_processes,
    marked_ranks,
    total_memory,
)
from benchmarks.fault_injection.soak_report import write_report

ROOT = Path(__file__).resolve().parents[2]
DISK_MB = 32
PERIOD_S = 0.5
END_TIMEOUT_S = 300.0
CASE: dict[str, Any] = {
    "train_batch_size": 32,
    "gradient_clipping": 1.0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 1e-3, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01},
    },
    # A schedule that does not depend on the length of the run.
    "scheduler": {"type": "CosineAnnealingWarmRestarts", "params": {"T_0_epochs": 1}},
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 2},
    "bertds": {
        "model": {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
        },
        "data": {
            "train": [{"name": "shards/train"}],
            "valid": {"sample": {"name": "shards/valid", "fraction": 0.05}},
            "seq_len": 64,
            # Few blocks at a time, so that shards are read continuously.
            "lanes": 8,
            "window": 1,
        },
        "run": {
            "max_steps": 10_000_000,
            "log_every": 5,
            "eval_every": 100,
            "save_every": 20,
            "max_micro_batch_size": 8,
            "collective_timeout_s": 8.0,
        },
    },
}


def make_data(work: Path) -> None:
    """Generate a corpus and write it as many small shards; finished files are kept."""
    text, tokenizer = work / "text", work / "tokenizer.json"
    files = f"{text / 'ko.txt'},{text / 'en.txt'}"
    for command in (
        ["sample", "--sentences", "60000", "--out", str(text)],
        ["tokenizer", "--input", files, "--merges", "600", "--out", str(tokenizer)],
        ["shard", "--input", files, "--tokenizer", str(tokenizer), "--seq_len", "64"]
        + ["--out", str(work / "shards")],
    ):
        subprocess.run([sys.executable, "-m", "data_prep", *command], cwd=ROOT, check=True)


def mount_small_disk(path: Path) -> Path | None:
    """Mount a file system of `DISK_MB`, or return None if this user may not mount one."""
    path.mkdir(exist_ok=True)
    if not path.is_mount():
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(path)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return None
    return path


@dataclass(slots=True)
class SupervisedCommand:
    """A command that can be started again each time it has exited, with what was observed."""

    command: list[str]
    mark: str
    output: Path
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """For each attempt its seconds `s`, its exit `code`, and its peak `memory` in bytes."""
    longest_leftover_s: float = 0.0
    """The longest time that a process outlived its launcher."""
    _process: "subprocess.Popen[bytes] | None" = None
    _start: float = 0.0
    _memory: int = 0
    _ends: list[float] = field(default_factory=list)
    _attempt_of: dict[int, int] = field(default_factory=dict)

    def start(self) -> None:
        """Start the command."""
        self._start, self._memory = time.monotonic(), 0
        environment = {"OMP_NUM_THREADS": "1", MARK: self.mark, "TQDM_MININTERVAL": "60"}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    def poll(self) -> bool:
        """Sample memory and leftover processes. Return whether the launcher has just exited."""
        now, current = time.monotonic(), len(self._ends)
        for pid in marked_processes(self.mark):
            attempt = self._attempt_of.setdefault(pid, current)
            if attempt < current:
                self.longest_leftover_s = max(self.longest_leftover_s, now - self._ends[attempt])
        self._memory = max(self._memory, total_memory(self.mark))
        if self._process is None or self._process.poll() is None:
            return False
        seconds, code = time.monotonic() - self._start, self._process.returncode
        self.attempts.append({"s": seconds, "code": code, "memory": self._memory})
        self._ends.append(time.monotonic())
        self._process = None
        return True


def make_command(work: Path, out: Path, *settings: str) -> list[str]:
    """Return the command of a run: always the same port and directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (work / "soak.json").write_text(json.dumps(CASE))
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators=2"),
        *(f"--master_port={port}", str(ROOT / "launch" / "train.py")),
        *("--ds_config", str(work / "soak.json"), "--data", str(work), "--out", str(out)),
        *settings,
    ]


def read_status(run_dir: Path) -> dict[str, Any]:
    """Return the status of the run, or an empty object before its first status."""
    path = run_dir / "status.json"
    return json.loads(path.read_text()) if path.is_file() else {}


class Soak:
    """The disturbed run. Its events are written to a file, from which an interrupted soak resumes."""

    def __init__(self, work: Path, disk: Path | None, options: argparse.Namespace) -> None:
        """Read the events of an earlier soak in this directory."""
        self.run_dir = (disk or work / "disk") / "soak" / "main"
        self._path, self._options = work / "events.jsonl", options
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        self.events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._before = self.events[-1]["t"] if self.events else 0.0
        self._start = time.monotonic()
        mark = uuid.uuid4().hex
        seed = options.seed + len(self.events)
        self.faults = Faults(mark, disk, work / "shards" / "train", seed)
        command = make_command(work, self.run_dir.parents[1])
        self.run = SupervisedCommand(command, mark, work / "output.log")

    @property
    def elapsed(self) -> float:
        """Seconds of the soak, including earlier ones in this directory."""
        return self._before + time.monotonic() - self._start

    def log_event(self, what: str, **details: Any) -> None:
        """Append one event to the file."""
        status = read_status(self.run_dir)
        position = {"step": status.get("step", 0), "said": status.get("code")}
        self.events.append({"t": round(self.elapsed, 1), "what": what, **details, **position})
        with self._path.open("a") as file:
            file.write(json.dumps(self.events[-1]) + "\n")

    def disturb(self) -> None:
        """Inject faults and restart the command until the time is over."""
        due = self.elapsed + self.faults.next_gap(self._options.every)
        self.run.start()
        while self.elapsed < 60 * self._options.minutes:
            self._supervise()
            self.faults.repair_due()
            if self.elapsed >= due:
                kind = self.faults.choose()
                self.log_event("fault", kind=kind, effect=self.faults.inject(kind))
                due = self.elapsed + self.faults.next_gap(self._options.every)
            time.sleep(PERIOD_S)
        self.faults.repair_all()
        self.log_event("faults are over")

    def end(self) -> int:
        """Let the run recover, send SIGTERM to one rank, and wait. Return the last step."""
        first = read_status(self.run_dir).get("step", 0)
        self._wait(lambda: read_status(self.run_dir).get("step", 0) > first)
        for pid in marked_ranks(self.run.mark)[:1]:
            os.kill(pid, signal.SIGTERM)
        self._wait(lambda: read_status(self.run_dir).get("state") == "pre-empted", restart=False)
        self._wait(lambda: not marked_processes(self.run.mark), restart=False)
        self.run.poll()
        self.log_event("end")
        return int(read_status(self.run_dir)["step"])

    def _supervise(self, *, restart: bool = True) -> None:
        if self.run.poll():
            self.log_event("life", **self.run.attempts[-1])
            if restart:
                self.run.start()

    def _wait(self, done: Callable[[], bool], *, restart: bool = True) -> None:
        deadline = time.monotonic() + END_TIMEOUT_S
        while not done():
            self._supervise(restart=restart)
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"{self.run_dir} did not end within {END_TIMEOUT_S:g} s: see {self._path}"
                )
            time.sleep(PERIOD_S)


def run_undisturbed(work: Path, steps: int) -> tuple[Path, list[int]]:
    """Train the same number of steps without faults. Return the run directory and memory samples."""
    out, log = work / "undisturbed", work / "undisturbed.log"
    command = make_command(work, out, "--set", f"run.max_steps={steps}")
    run = SupervisedCommand(command, uuid.uuid4().hex, log)
    memory = []
    run.start()
    while not run.poll():
        memory.append(total_memory(run.mark))
        time.sleep(5 * PERIOD_S)
    if run.attempts[-1]["code"]:
        raise SystemExit(f"the undisturbed run failed: see {log}")
    return out / "soak" / "main", memory


def main() -> None:
    """Run the soak, compare, and report. Exit with code 1 if a comparison fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--every", type=float, default=20.0, help="mean seconds between faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=ROOT / "benchmarks/results/soak.md")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    make_data(work)
    disk = mount_small_disk(work / "disk")
    shared = shared_memory()
    soak = Soak(work, disk, options)
    soak.disturb()
    steps = soak.end()
    leftover = list(marked_processes(soak.run.mark).values())
    reference, memory = run_undisturbed(work, steps)
    summary = {
        "minutes": options.minutes,
        "every": options.every,
        "steps": steps,
        "leftover": leftover,
        "longest_leftover_s": soak.run.longest_leftover_s,
        "shared_memory": shared_memory() - shared,
    }
    passed = write_report(options.report, summary, soak.events, soak.run_dir, reference, memory)
    sys.exit(0 if passed else 1)


def shared_memory() -> int:
    """Return the bytes that DeepSpeed and torch hold in /dev/shm."""
    paths = [*Path("/dev/shm").glob("deepspeed*"), *Path("/dev/shm").glob("torch*")]
    return sum(path.stat().st_size for path in paths)


if __name__ == "__main__":
    main()
