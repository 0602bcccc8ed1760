"""Worker of `gpu.py`: steps of the real engine on the real data loader.

python -m benchmarks.performance.gpu_bertds CASE ARM SETTINGS SHARDS STEPS
"""

import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.common.harness import Stopwatch, Turn, serve
from benchmarks.common.training_session import open_until_exit
from bertds.config.case import read_case
from bertds.data.packing import PackedBatch
from bertds.engine.engine import Engine
from bertds.metrics.accumulators import AsyncSums
from bertds.metrics.device import measured_flops, peak_memory_gb
from bertds.training.trainer import build_engine


class TrainingSteps:
    """Training steps that continue from turn to turn."""

    def __init__(self, engine: Engine, batches: Iterator[list[PackedBatch]], steps: int) -> None:
        self._engine, self._batches, self._steps = engine, batches, steps
        self._number = 0

    def step(self) -> tuple[AsyncSums, int, float]:
        """Run one step. Return its unread sums, its tokens, and the seconds waited for data."""
        before = time.perf_counter()
        packs = next(self._batches)
        waited = time.perf_counter() - before
        sums = self._engine.train_step(packs, self._number, stop=False)
        self._number += 1
        return sums, sum(pack.num_tokens for pack in packs), waited

    def run_turn(self) -> dict[str, float]:
        """Run the steps of a turn. As in training, sums are read while the next step runs."""
        watch, tokens, waited = Stopwatch(), 0, 0.0
        with watch:
            previous: AsyncSums | None = None
            for _ in range(self._steps):
                sums, step_tokens, step_wait = self.step()
                tokens, waited = tokens + step_tokens, waited + step_wait
                if previous is not None:
                    previous.sums()
                previous = sums
            if previous is not None:
                previous.sums()
        torch.cuda.empty_cache()  # the other programs need the memory
        return {**watch.answer(tokens), "data_wait": waited / watch.seconds}


def find_synchronizations(steps: TrainingSteps) -> str:
    """Return the source lines where a step makes the host wait for the GPU."""
    if not torch.cuda.is_available():
        return "no GPU"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        steps.step()
        torch.cuda.set_sync_debug_mode("default")
    lines = {f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w)}
    return " ".join(sorted(lines)) or "none"


def main() -> tuple[dict[str, str], Turn]:
    """Build the engine; return the worker's metadata and its turn."""
    case_file, arm, settings, shards, steps = sys.argv[1:6]
    case = read_case(Path(case_file), arm, settings)
    run, device = open_until_exit(case, Path(shards).parent)
    peak = measured_flops(device, torch.bfloat16)
    training = TrainingSteps(build_engine(run, device), run.loader.batches(0, 1 << 40), int(steps))
    training.run_turn()
    metadata = {"syncs": find_synchronizations(training), "peak": str(peak)}
    return metadata | {"memory": f"{peak_memory_gb(device):.1f}"}, training.run_turn


if __name__ == "__main__":
    serve(main)
