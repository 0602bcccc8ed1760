"""Faults at random moments for most of an hour, and then the weights of the run that had none.

    python benchmarks/soak.py --work DIR [--minutes 45] [--every 20] [--seed 0]

Two processes train on the generated corpus, into a file system of 32 MB. About every `--every`
seconds (exponentially distributed) one of the faults of `soak_faults.py` strikes. A supervisor does
one thing: when the launcher ends, it starts the same command again. After `--minutes` the faults
stop, the run is asked to end, and an undisturbed run of as many steps is trained beside it. Weights
and moments must be the same bytes, the figures the same lines, no process may be left, memory be
flat. A soak that is itself interrupted goes on where it was; `soak.md` is its report.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak_faults import MARK, Faults, memory_of, processes_of, ranks_of
from soak_report import write_report

ROOT = Path(__file__).resolve().parents[2]
DISK_MB = 32
PERIOD_S = 0.5
LONGEST_END_S = 300.0
CASE: dict[str, Any] = {
    "train_batch_size": 32,
    "gradient_clipping": 1.0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 1e-3, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01},
    },
    # A schedule that does not know how long the run will be.
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
            # Few blocks at a time, so that shards are read all the while.
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
    """A generated corpus in many small shards; made once."""
    text, vocabulary = work / "text", work / "tokenizer.json"
    files = f"{text / 'ko.txt'},{text / 'en.txt'}"
    for command in (
        ["sample", "--sentences", "60000", "--out", str(text)],
        ["tokenizer", "--input", files, "--merges", "600", "--out", str(vocabulary)],
        ["shard", "--input", files, "--tokenizer", str(vocabulary), "--seq_len", "64"]
        + ["--out", str(work / "shards")],
    ):
        subprocess.run([sys.executable, "-m", "data_prep", *command], cwd=ROOT, check=True)


def small_disk(place: Path) -> Path | None:
    """A small file system of its own, unless this user may not mount one."""
    place.mkdir(exist_ok=True)
    if not place.is_mount():
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(place)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return None
    return place


@dataclass(slots=True)
class Supervised:
    """The same command, started again whenever it has ended; and what was seen of it."""

    command: list[str]
    mark: str
    output: Path
    lives: list[dict[str, Any]] = field(default_factory=list)
    longest_leftover_s: float = 0.0
    """How long a process outlived its launcher at most."""
    _process: "subprocess.Popen[bytes] | None" = None
    _began: float = 0.0
    _memory: int = 0
    _ended: list[float] = field(default_factory=list)
    _life_of: dict[int, int] = field(default_factory=dict)

    def tend(self) -> bool:
        """Look at it; whether the launcher has ended since the last look."""
        self._look()
        if self._process is not None and self._process.poll() is None:
            return False
        ended = self._process is not None
        if self._process is not None:
            life = {"s": time.monotonic() - self._began, "code": self._process.returncode}
            self.lives.append({**life, "memory": self._memory})
            self._ended.append(time.monotonic())
            self._process = None
        return ended

    def start(self) -> None:
        """The command, once more."""
        self._began, self._memory = time.monotonic(), 0
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env=os.environ
                | {"OMP_NUM_THREADS": "1", MARK: self.mark, "TQDM_MININTERVAL": "60"},
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    def _look(self) -> None:
        """Memory of those that train, and processes of lives that are over."""
        now, current = time.monotonic(), len(self._ended)
        for pid in processes_of(self.mark):
            life = self._life_of.setdefault(pid, current)
            if life < current:
                self.longest_leftover_s = max(self.longest_leftover_s, now - self._ended[life])
        self._memory = max(self._memory, sum(map(memory_of, ranks_of(self.mark))))


def command_of(work: Path, out: Path, *settings: str) -> list[str]:
    """The command that is given again and again: the same port, the same directory."""
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


def status_of(run_dir: Path) -> dict[str, Any]:
    """What a supervisor can know of it."""
    path = run_dir / "status.json"
    return json.loads(path.read_text()) if path.is_file() else {}


class Soak:
    """The disturbed run: events go to a file, from which an interrupted soak goes on."""

    def __init__(self, work: Path, disk: Path | None, options: argparse.Namespace) -> None:
        """Read what an earlier soak in this directory has done."""
        self.run_dir = (disk or work / "disk") / "soak" / "main"
        self._path, self._options = work / "events.jsonl", options
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        self.events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._before = self.events[-1]["t"] if self.events else 0.0
        self._began = time.monotonic()
        mark = uuid.uuid4().hex
        seed = options.seed + len(self.events)
        self.faults = Faults(mark, disk, work / "shards" / "train", seed)
        command = command_of(work, self.run_dir.parents[1])
        self.run = Supervised(command, mark, work / "output.log")

    @property
    def elapsed(self) -> float:
        """Seconds of the soak, former ones in this directory included."""
        return self._before + time.monotonic() - self._began

    def note(self, what: str, **facts: Any) -> None:
        """Write one event."""
        status = status_of(self.run_dir)
        place = {"step": status.get("step", 0), "said": status.get("code")}
        self.events.append({"t": round(self.elapsed, 1), "what": what, **facts, **place})
        with self._path.open("a") as file:
            file.write(json.dumps(self.events[-1]) + "\n")

    def disturb(self) -> None:
        """Faults and restarts, until the time is over."""
        due = self.elapsed + self.faults.gap(self._options.every)
        self.run.start()
        while self.elapsed < 60 * self._options.minutes:
            self._tend()
            self.faults.heal()
            if self.elapsed >= due:
                kind = self.faults.choose()
                self.note("fault", kind=kind, effect=self.faults.make(kind))
                due = self.elapsed + self.faults.gap(self._options.every)
            time.sleep(PERIOD_S)
        self.faults.heal_all()
        self.note("faults are over")

    def end(self) -> int:
        """Let it come to itself, ask it to end, and wait; its last step."""
        start = status_of(self.run_dir).get("step", 0)
        self._wait(lambda: status_of(self.run_dir).get("step", 0) > start)
        for one in ranks_of(self.run.mark)[:1]:
            os.kill(one, 15)
        self._wait(lambda: status_of(self.run_dir).get("state") == "pre-empted", again=False)
        self._wait(lambda: not processes_of(self.run.mark), again=False)
        self.run.tend()
        self.note("end")
        return int(status_of(self.run_dir)["step"])

    def _tend(self, *, again: bool = True) -> None:
        if self.run.tend():
            self.note("life", **self.run.lives[-1])
            if again:
                self.run.start()

    def _wait(self, done: Callable[[], bool], *, again: bool = True) -> None:
        give_up = time.monotonic() + LONGEST_END_S
        while not done():
            self._tend(again=again)
            if time.monotonic() > give_up:
                raise SystemExit(f"{self.run_dir} does not come to an end: see {self._path}")
            time.sleep(PERIOD_S)


def undisturbed(work: Path, steps: int) -> tuple[Path, list[int]]:
    """As many steps without a fault: its directory, and samples of its memory."""
    out = work / "undisturbed"
    settings = ("--set", f"run.max_steps={steps}")
    run = Supervised(command_of(work, out, *settings), uuid.uuid4().hex, work / "undisturbed.log")
    memory = []
    run.start()
    while not run.tend():
        memory.append(sum(map(memory_of, ranks_of(run.mark))))
        time.sleep(5 * PERIOD_S)
    if run.lives[-1]["code"]:
        raise SystemExit(f"the undisturbed run failed: see {work / 'undisturbed.log'}")
    return out / "soak" / "main", memory


def main() -> None:
    """Soak, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    make_data(work)
    disk = small_disk(work / "disk")
    shared = shared_memory()
    soak = Soak(work, disk, options)
    soak.disturb()
    steps = soak.end()
    left = list(processes_of(soak.run.mark).values())
    straight, memory = undisturbed(work, steps)
    facts = {
        "minutes": options.minutes,
        "every": options.every,
        "steps": steps,
        "left": left,
        "longest leftover": soak.run.longest_leftover_s,
        "shared memory": shared_memory() - shared,
    }
    good = write_report(options.report, facts, soak.events, soak.run_dir, straight, memory)
    sys.exit(0 if good else 1)


def shared_memory() -> int:
    """Bytes that DeepSpeed and torch hold in /dev/shm."""
    places = [*Path("/dev/shm").glob("deepspeed*"), *Path("/dev/shm").glob("torch*")]
    return sum(path.stat().st_size for path in places)


if __name__ == "__main__":
    main()
