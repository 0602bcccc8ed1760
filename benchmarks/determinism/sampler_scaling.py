"""The order and the reading of a corpus of a trillion tokens for 1 to 16,384 processes.

    python benchmarks/scale.py [--tokens 1e12] [--out benchmarks]

The real `TrainLoader` and `Order` of single ranks are built over a block table of the corpus's
size and driven; only the blocks' contents are stood in for, one token a sequence. For each world
size and some ranks, each in a process of its own: processor seconds to set up, memory, and what the
rank reads over what it trains on. Then a model of weak scaling: step time from computing, measured
here or stated, and the bytes that a step sends. Writes scale.json and scale.png.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from bertds.config.case import read_case
from bertds.config.schema import DataConfig, TrainSet
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import MaskedSequences, RankBatchSpec
from bertds.data.sampler import ShuffledSampler
from bertds.planner.plan import communication

matplotlib.use("Agg")
MEAN_LENGTH = 500
WORLDS = [4**n for n in range(8)]
_MOST_WINDOWS = 400  # of a rank; enough for all windows of a rank of 4,096
_STEPS = 50
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Simulate all world sizes and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=float, default=1e12)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        world_size, rank, lanes = map(int, options.rank.split(","))
        print(json.dumps(simulate(options.table, world_size, rank, lanes)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        table = write_table(Path(scratch) / "blocks.npy", int(options.tokens))
        results = [result for size in WORLDS for result in of_world(table, size)]
    scaling = weak_scaling()
    content = {"tokens": options.tokens, "ranks": results, "weak_scaling": scaling}
    (options.out / "scale.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(results, scaling, options.out / "scale.png")


def write_table(path: Path, tokens: int) -> Path:
    """Sequences of each block, as the index of a corpus of that size would hold them."""
    generator = np.random.default_rng(0)
    per_block = 32_768 // MEAN_LENGTH
    blocks = tokens // (per_block * MEAN_LENGTH)
    np.save(path, generator.integers(per_block - 15, per_block + 16, blocks, dtype=np.uint32))
    return path


def batch_of(world_size: int) -> int:
    """Sequences of a global batch: 1,024, or two a process."""
    return max(1024, 2 * world_size)


def of_world(table: Path, world_size: int) -> list[dict[str, Any]]:
    """Some ranks, with as many lanes as processes and, where that differs, with the default 64."""
    ranks = sorted({0, world_size // 3, world_size - 1})
    results = []
    for lanes in sorted({64, max(64, world_size)}):
        for rank in ranks if lanes >= world_size else ranks[:1]:
            command = [sys.executable, __file__, f"--rank={world_size},{rank},{lanes}"]
            done = subprocess.run(
                [*command, f"--table={table}"], check=True, capture_output=True, text=True
            )
            results.append(json.loads(done.stdout))
            print(results[-1], flush=True)
    return results


class CountingSet:
    """Blocks of the right numbers of sequences, one token each, and how many were read."""

    def __init__(self, counts: np.ndarray[Any, Any]) -> None:
        self.subset = SimpleNamespace(
            weight=1, mean_length=MEAN_LENGTH, block_sequences=lambda: [counts]
        )
        self._counts = counts

    def read(self, block: int, pass_number: int) -> MaskedSequences:  # noqa: ARG002
        """The stand-in of a block; each token is its block's number, cut to 16 bits."""
        size = int(self._counts[block])
        ids = np.full(size, block & 0xFFFF, np.uint16)
        return MaskedSequences.of(ids, ids, np.ones(size, bool), np.ones(size, np.int64))


def simulate(table: Path, world_size: int, rank: int, lanes: int) -> dict[str, Any]:
    """One rank: set it up, take some batches, and walk its lanes."""
    before = memory()
    began = time.process_time()
    counts = np.load(table, mmap_mode="r")
    batch = batch_of(world_size)
    loader = TrainLoader(
        [cast("MaskedDataset", CountingSet(counts))],
        DataConfig(train=(TrainSet(name="all"),), lanes=lanes),
        RankBatchSpec(rank, world_size, batch // world_size, 512, 0),
        batch_size=batch,
        seed=0,
    )
    middle = loader.sampler.steps_per_epoch // 2
    loader.batch(middle)
    seconds = time.process_time() - began
    taken = [sum(pack.num_tokens for pack in loader.batch(middle + step)) for step in range(_STEPS)]
    after = memory()
    return {
        "world_size": world_size,
        "rank": rank,
        "lanes": lanes,
        "steps_per_epoch": loader.sampler.steps_per_epoch,
        "setup_cpu_s": round(seconds, 2),
        "own_mb": round((after["RssAnon"] - before["RssAnon"]) / 1e6, 1),
        "mapped_mb": round((after["RssFile"] - before["RssFile"]) / 1e6, 1),
        "unequal_batches": sum(count != batch // world_size for count in taken),
        "read_over_share": round(read_over_share(loader.sampler, counts, world_size, rank), 4),
    }


def read_over_share(
    order: ShuffledSampler, counts: np.ndarray[Any, Any], world_size: int, rank: int
) -> float:
    """Sequences in the blocks that a rank reads, over those that it trains on, in an epoch.

    A lane that is too long is walked in part, whole windows only, its edges among them.
    """
    slots = order.batch_size // world_size
    first, last = rank * slots // order.per_lane, ((rank + 1) * slots - 1) // order.per_lane
    read = used = 0
    for lane in range(first, last + 1):
        length = order.steps_per_epoch * order.per_lane
        budget = max(2, _MOST_WINDOWS // (last + 1 - first))
        position = 0
        while position < length and budget:
            window = order.window_at(0, lane, position)
            read += int(counts[window.blocks].sum())
            used += window.rows.size
            position, budget = window.stop, budget - 1
    # Ranks that share a lane read all its windows, and train on their part of them.
    return read / used * max(1.0, order.per_lane / slots)


def memory() -> dict[str, int]:
    """Bytes of this process by kind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines)
    return {key: 1024 * int(value.split()[0]) for key, value in pairs if key.startswith("Rss")}


def weak_scaling() -> dict[str, Any]:
    """Step time for a fixed work of each process (8 sequences of 512 of bert_base, ZeRO 1)."""
    case = read_case(ROOT / "ds_configs" / "bert_base.json", "main")
    cpu, flops = measured_compute()
    work = 6 * 86e6 * 8 * 512
    machines = {
        f"CPU core ({flops / 1e9:.0f} GFLOP/s measured), 10 Gbit/s": (work / flops, 1.25e9, 50e-6),
        "H100 (40% of peak, stated), 400 Gbit/s": (work / (0.4 * 989e12), 50e9, 20e-6),
    }
    found: dict[str, Any] = {"measured_s": cpu}
    for name, (compute, bandwidth, latency) in machines.items():
        steps = {}
        for world_size in WORLDS:
            sent = communication(case, 1, world_size, 1, 30_522)
            hops = 2 * math.ceil(math.log2(world_size))
            steps[world_size] = compute + sent / bandwidth + hops * latency
        found[name] = steps
    return found


def measured_compute() -> tuple[float, float]:
    """Processor seconds, and FLOP/s, of a forward and backward pass of one layer on one core here."""
    import torch

    torch.set_num_threads(1)
    layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, 0.0, batch_first=True)
    hidden = torch.randn(2, 512, 768)
    layer(hidden).sum().backward()
    began = time.process_time()
    layer(hidden).sum().backward()
    seconds = time.process_time() - began
    return seconds, 6 * (12 * 768**2 + 2 * 512 * 768) * 1024 / seconds


def draw(results: list[dict[str, Any]], scaling: dict[str, Any], path: Path) -> None:
    """What a rank reads, and efficiency, over the number of processes."""
    figure, (reading, speed) = plt.subplots(1, 2, figsize=(10, 4))
    for title, chosen in (
        ("data.lanes = processes", [r for r in results if r["lanes"] >= r["world_size"]]),
        ("data.lanes = 64", [r for r in results if r["lanes"] == 64]),
    ):
        worst = {size: 0.0 for size in WORLDS}
        for one in chosen:
            worst[one["world_size"]] = max(worst[one["world_size"]], one["read_over_share"])
        sizes = [size for size in WORLDS if worst[size]]
        reading.loglog(sizes, [worst[size] for size in sizes], marker="o", label=title)
    reading.axhline(1.1, color="grey", linestyle=":")
    reading.set(xlabel="processes", ylabel="read / own share (worst rank)")
    reading.legend()
    for name, steps in scaling.items():
        if isinstance(steps, dict):
            speed.semilogx(WORLDS, [steps[1] / steps[n] for n in WORLDS], marker="o", label=name)
    speed.set(xlabel="processes", ylabel="weak-scaling efficiency (model)", ylim=(0, 1.05))
    speed.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
