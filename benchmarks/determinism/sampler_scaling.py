"""Sampling and reading of a corpus of a trillion tokens, simulated for 1 to 16,384 processes.

    python -m benchmarks.determinism.sampler_scaling [--tokens 1e12] [--out benchmarks/results]

Builds and runs the real `TrainLoader` and `ShuffledSampler` of single ranks over a block table of the
full size. Only the contents of the blocks are simulated, with one token per sequence. Each rank runs in a
process of its own. It reports processor seconds for setup, memory, and how much it reads relative to what
it trains on. A model of weak scaling follows: step time from compute (measured here, or assumed) and
from the bytes that a step sends. Writes `sampler_scaling.json` and `sampler_scaling.png`.
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
MODULE = "benchmarks.determinism.sampler_scaling"
MEAN_LENGTH = 500
WORLDS = [4**n for n in range(8)]
MAX_WINDOWS = 400  # walked per rank; covers all windows of a rank if there are 4,096 ranks
STEPS = 50
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Simulate all world sizes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=float, default=1e12)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        world_size, rank, lanes = map(int, options.rank.split(","))
        print(json.dumps(simulate_rank(options.table, world_size, rank, lanes)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        table = write_table(Path(scratch) / "blocks.npy", int(options.tokens))
        results = [result for size in WORLDS for result in simulate_world(table, size)]
    scaling = model_weak_scaling()
    content = {"tokens": options.tokens, "ranks": results, "weak_scaling": scaling}
    (options.out / "sampler_scaling.json").write_text(json.dumps(content, indent=1) + "\n")
    plot(results, scaling, options.out / "sampler_scaling.png")


def write_table(path: Path, tokens: int) -> Path:
    """Write the number of sequences of each block, as the index of such a corpus has it."""
    generator = np.random.default_rng(0)
    per_block = 32_768 // MEAN_LENGTH
    blocks = tokens // (per_block * MEAN_LENGTH)
    np.save(path, generator.integers(per_block - 15, per_block + 16, blocks, dtype=np.uint32))
    return path


def simulate_world(table: Path, world_size: int) -> list[dict[str, Any]]:
    """Simulate some ranks with one lane per process and, if that differs, with the default of 64."""
    ranks = sorted({0, world_size // 3, world_size - 1})
    results = []
    for lanes in sorted({64, max(64, world_size)}):
        for rank in ranks if lanes >= world_size else ranks[:1]:
            command = [sys.executable, "-m", MODULE, f"--rank={world_size},{rank},{lanes}"]
            done = subprocess.run(
                [*command, f"--table={table}"], check=True, capture_output=True, text=True
            )
            results.append(json.loads(done.stdout))
            print(results[-1], flush=True)
    return results


class SimulatedDataset:
    """Stands in for `MaskedDataset`: blocks with the right number of sequences, one token each."""

    def __init__(self, counts: np.ndarray[Any, Any]) -> None:
        self.subset = SimpleNamespace(
            weight=1, mean_length=MEAN_LENGTH, block_sequences=lambda: [counts]
        )
        self._counts = counts

    def read(self, block: int, pass_number: int) -> MaskedSequences:  # noqa: ARG002
        """Return a block whose tokens are its number modulo 2**16."""
        size = int(self._counts[block])
        ids = np.full(size, block & 0xFFFF, np.uint16)
        return MaskedSequences.of(ids, ids, np.ones(size, bool), np.ones(size, np.int64))


def simulate_rank(table: Path, world_size: int, rank: int, lanes: int) -> dict[str, Any]:
    """Set up one rank, take some batches, and walk its lanes."""
    before = resident_memory()
    start = time.process_time()
    counts = np.load(table, mmap_mode="r")
    batch = max(1024, 2 * world_size)  # sequences of a global batch
    loader = TrainLoader(
        [cast("MaskedDataset", SimulatedDataset(counts))],
        DataConfig(train=(TrainSet(name="all"),), lanes=lanes),
        RankBatchSpec(rank, world_size, batch // world_size, 512, 0),
        batch_size=batch,
        seed=0,
    )
    middle = loader.sampler.steps_per_epoch // 2
    loader.batch(middle)
    seconds = time.process_time() - start
    sizes = [sum(pack.num_tokens for pack in loader.batch(middle + step)) for step in range(STEPS)]
    after = resident_memory()
    return {
        "world_size": world_size,
        "rank": rank,
        "lanes": lanes,
        "steps_per_epoch": loader.sampler.steps_per_epoch,
        "setup_cpu_s": round(seconds, 2),
        "own_mb": round((after["RssAnon"] - before["RssAnon"]) / 1e6, 1),
        "mapped_mb": round((after["RssFile"] - before["RssFile"]) / 1e6, 1),
        "unequal_batches": sum(size != batch // world_size for size in sizes),
        "read_over_share": round(read_over_share(loader.sampler, counts, world_size, rank), 4),
    }


def read_over_share(
    sampler: ShuffledSampler, counts: np.ndarray[Any, Any], world_size: int, rank: int
) -> float:
    """Return the sequences in the blocks that a rank reads, relative to those it trains on, per epoch.

    A lane that is too long is walked in part, by complete windows, from one of its edges.
    """
    slots = sampler.batch_size // world_size
    first, last = rank * slots // sampler.per_lane, ((rank + 1) * slots - 1) // sampler.per_lane
    read = used = 0
    for lane in range(first, last + 1):
        length = sampler.steps_per_epoch * sampler.per_lane
        budget = max(2, MAX_WINDOWS // (last + 1 - first))
        position = 0
        while position < length and budget:
            window = sampler.window_at(0, lane, position)
            read += int(counts[window.blocks].sum())
            used += window.rows.size
            position, budget = window.stop, budget - 1
    # Ranks that share a lane read all of its windows, and train on their part of the sequences.
    return read / used * max(1.0, sampler.per_lane / slots)


def resident_memory() -> dict[str, int]:
    """Return the resident bytes of this process by kind (RssAnon, RssFile, …)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines)
    return {key: 1024 * int(value.split()[0]) for key, value in pairs if key.startswith("Rss")}


def model_weak_scaling() -> dict[str, Any]:
    """Model the step time at fixed work per process: 8 sequences of 512, bert_base, ZeRO 1."""
    case = read_case(ROOT / "ds_configs" / "bert_base.json", "main")
    seconds, flops = measure_layer()
    work = 6 * 86e6 * 8 * 512
    machines = {
        f"CPU core ({flops / 1e9:.0f} GFLOP/s measured), 10 Gbit/s": (work / flops, 1.25e9, 50e-6),
        "H100 (40% of peak, stated), 400 Gbit/s": (work / (0.4 * 989e12), 50e9, 20e-6),
    }
    scaling: dict[str, Any] = {"measured_s": seconds}
    for name, (compute, bandwidth, latency) in machines.items():
        steps = {}
        for world_size in WORLDS:
            sent = communication(case, 1, world_size, 1, 30_522)
            hops = 2 * math.ceil(math.log2(world_size))
            steps[world_size] = compute + sent / bandwidth + hops * latency
        scaling[name] = steps
    return scaling


def measure_layer() -> tuple[float, float]:
    """Return processor seconds and FLOP/s of one layer, forward and backward, on one core."""
    import torch

    torch.set_num_threads(1)
    layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, 0.0, batch_first=True)
    hidden = torch.randn(2, 512, 768)
    layer(hidden).sum().backward()
    start = time.process_time()
    layer(hidden).sum().backward()
    seconds = time.process_time() - start
    return seconds, 6 * (12 * 768**2 + 2 * 512 * 768) * 1024 / seconds


def plot(results: list[dict[str, Any]], scaling: dict[str, Any], path: Path) -> None:
    """Plot how much a rank reads, and the efficiency, against the number of processes."""
    figure, (reading, speed) = plt.subplots(1, 2, figsize=(10, 4))
    for title, chosen in (
        ("data.lanes = processes", [r for r in results if r["lanes"] >= r["world_size"]]),
        ("data.lanes = 64", [r for r in results if r["lanes"] == 64]),
    ):
        worst = {size: 0.0 for size in WORLDS}
        for result in chosen:
            size = result["world_size"]
            worst[size] = max(worst[size], result["read_over_share"])
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
