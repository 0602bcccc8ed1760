"""Faults for `soak.py`: real ones, at random moments, which end by themselves.

Processes of the run are found by a variable in their environment, which the launcher passes on. No
process can escape, even if its parent has changed.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

MARK = "BERTDS_SOAK"
NO_TARGET = "no process to strike"
REPAIR_AFTER_S = (4.0, 12.0)
"""How long a disk is full or a shard is truncated."""


def marked_processes(mark: str) -> dict[int, str]:
    """Return the live processes that carry the mark, with their command lines."""
    variable, processes = f"{MARK}={mark}".encode(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if variable in (entry / "environ").read_bytes().split(b"\0"):
                processes[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return processes


def marked_ranks(mark: str) -> list[int]:
    """Return the marked processes that train."""
    return [pid for pid, line in marked_processes(mark).items() if "train.py --local_rank=" in line]


def total_memory(mark: str) -> int:
    """Return the bytes of all marked ranks (PSS: shared pages are divided among the processes)."""
    total = 0
    for pid in marked_ranks(mark):
        with contextlib.suppress(OSError):  # it has just exited
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


class Faults:
    """Injects faults, and repairs those that do not end by themselves."""

    def __init__(self, mark: str, disk: Path | None, shards: Path, seed: int) -> None:
        """Repair what an interrupted soak left behind. No fault is injected yet.

        Args:
            mark: Mark of the run's processes.
            disk: The small file system that the run writes to, if it could be mounted.
            shards: Directory of the training set.
            seed: Seed of the random choices.
        """
        self._mark, self._disk, self._shards = mark, disk, shards
        self._copies = shards.with_name(f"{shards.name}.whole")
        self._random = random.Random(seed)
        self._repairs: list[tuple[float, Callable[[], None]]] = []
        self.repair_all()

    def next_gap(self, mean_s: float) -> float:
        """Return the seconds to the next fault, exponentially distributed."""
        return self._random.expovariate(1 / mean_s)

    def choose(self) -> str:
        """Choose one of the kinds with equal probability."""
        kinds = ["kill", "stop", "full disk", "cut shard"]
        return self._random.choice(kinds if self._disk else [k for k in kinds if k != "full disk"])

    def inject(self, kind: str) -> str:
        """Inject a fault and return its effect."""
        if kind in ("kill", "stop"):
            ranks = marked_ranks(self._mark)
            if not ranks:
                return NO_TARGET
            with contextlib.suppress(ProcessLookupError):
                number = signal.SIGKILL if kind == "kill" else signal.SIGSTOP
                os.kill(self._random.choice(ranks), number)
            return "a rank"
        repair = self._fill_disk() if kind == "full disk" else self._cut_shard()
        seconds = self._random.uniform(*REPAIR_AFTER_S)
        self._repairs.append((time.monotonic() + seconds, repair))
        return f"for {seconds:.1f} s"

    def repair_due(self) -> None:
        """Repair the faults whose time is over."""
        now = time.monotonic()
        for due, repair in self._repairs:
            if due <= now:
                repair()
        self._repairs = [(due, repair) for due, repair in self._repairs if due > now]

    def repair_all(self) -> None:
        """Repair everything."""
        self._repairs = []
        self._free_disk()
        self._restore_shards()

    def _fill_disk(self) -> Callable[[], None]:
        """Take every free byte of the disk."""
        assert self._disk is not None
        path = self._disk / "filler"
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        return self._free_disk

    def _free_disk(self) -> None:
        if self._disk is not None:
            (self._disk / "filler").unlink(missing_ok=True)

    def _cut_shard(self) -> Callable[[], None]:
        """Truncate a shard within its second half, in place, so that open readers are affected too."""
        shard = self._random.choice(sorted(self._shards.glob("*.tar")))
        copy = self._copies / shard.name
        if not copy.exists():
            self._copies.mkdir(exist_ok=True)
            shutil.copyfile(shard, copy)
        size = copy.stat().st_size
        os.truncate(shard, self._random.randrange(size // 2, size))
        return self._restore_shards

    def _restore_shards(self) -> None:
        for copy in self._copies.glob("*.tar"):
            shutil.copyfile(copy, self._shards / copy.name)
