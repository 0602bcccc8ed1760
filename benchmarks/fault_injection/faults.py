"""The faults of `soak.py`: each is real, happens at a random moment, and is over by itself.

Processes of the run are found by a variable in their environment, which the launcher hands on, so
that none of them can hide, whoever its parent has become.
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
HEALED_AFTER_S = (4.0, 12.0)
"""How long a disk is full or a shard is cut."""
Healing = Callable[[], None]


def processes_of(mark: str) -> dict[int, str]:
    """Live processes that carry the mark, with their command lines."""
    wanted, found = f"{MARK}={mark}".encode(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return found


def ranks_of(mark: str) -> list[int]:
    """Those of them that train."""
    return [pid for pid, line in processes_of(mark).items() if "train.py --local_rank=" in line]


def memory_of(process: int) -> int:
    """Bytes of a process, what it shares divided among the sharers; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Faults:
    """Makes faults, and ends those that have to be ended."""

    def __init__(self, mark: str, disk: Path | None, shards: Path, seed: int) -> None:
        """Nothing happens yet.

        Args:
            mark: Of the run's processes.
            disk: The small file system that the run writes to, if one could be mounted.
            shards: The directory of the set that it trains on.
            seed: Of the choices.
        """
        self._mark, self._disk, self._shards = mark, disk, shards
        self._chance = random.Random(seed)
        self._healings: list[tuple[float, Healing]] = []
        self.heal_all()

    def gap(self, mean_s: float) -> float:
        """Seconds to the next fault: no moment is safer than another."""
        return self._chance.expovariate(1 / mean_s)

    def choose(self) -> str:
        """One of the kinds, all alike."""
        kinds = ["kill", "stop", "full disk", "cut shard"]
        return self._chance.choice(kinds if self._disk else [k for k in kinds if k != "full disk"])

    def make(self, kind: str) -> str:
        """Make a fault; says what became of it."""
        if kind in ("kill", "stop"):
            return self._signal(signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        heal = self._fill() if kind == "full disk" else self._cut()
        seconds = self._chance.uniform(*HEALED_AFTER_S)
        self._healings.append((time.monotonic() + seconds, heal))
        return f"for {seconds:.1f} s"

    def heal(self) -> None:
        """End what is due."""
        now = time.monotonic()
        for due, work in self._healings:
            if due <= now:
                work()
        self._healings = [(due, work) for due, work in self._healings if due > now]

    def heal_all(self) -> None:
        """End everything, also what a soak that was itself killed has left."""
        self._healings = []
        self._free()
        self._restore()

    def _signal(self, number: signal.Signals) -> str:
        ranks = ranks_of(self._mark)
        if not ranks:
            return "nobody was there"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(ranks), number)
        return "a rank"

    @property
    def _filler(self) -> Path:
        assert self._disk is not None
        return self._disk / "filler"

    def _fill(self) -> Healing:
        """Take every byte of the disk."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        return self._free

    def _free(self) -> None:
        if self._disk is not None:
            self._filler.unlink(missing_ok=True)

    def _cut(self) -> Healing:
        """Cut a shard somewhere in the second half, in place: who has it open sees it as well."""
        shard = self._chance.choice(sorted(self._shards.glob("*.tar")))
        whole = self._copies / shard.name
        if not whole.exists():
            self._copies.mkdir(exist_ok=True)
            shutil.copyfile(shard, whole)
        size = whole.stat().st_size
        os.truncate(shard, self._chance.randrange(size // 2, size))
        return self._restore

    @property
    def _copies(self) -> Path:
        return self._shards.with_name(f"{self._shards.name}.whole")

    def _restore(self) -> None:
        for whole in self._copies.glob("*.tar") if self._copies.is_dir() else ():
            shutil.copyfile(whole, self._shards / whole.name)
