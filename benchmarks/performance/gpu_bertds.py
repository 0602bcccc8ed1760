"""A worker of `gpu.py`: steps of the real engine on the real loader, on the card.

python benchmarks/gpu_ours.py CASE ARM SETTINGS SHARDS STEPS
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from turns import Stopwatch, figures, serve

from bertds.config.case import read_case
from bertds.data.packing import PackedBatch
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.process_group import init_process_group
from bertds.metrics.device import measured_flops, peak_memory_gb
from bertds.train.setup import prepare_run
from bertds.train.trainer import build

Turn = Callable[[], dict[str, float]]


class Course:
    """Steps that go on from turn to turn."""

    def __init__(self, engine: Engine, batches: Iterator[list[PackedBatch]], steps: int) -> None:
        self._engine, self._batches, self._steps = engine, batches, steps
        self._number = 0

    def step(self) -> tuple[object, int, float]:
        """A step's figures, not read yet, its real tokens, and the seconds waited for its data."""
        before = time.perf_counter()
        packs = next(self._batches)
        waited = time.perf_counter() - before
        reading = self._engine.train_step(packs, self._number, stop=False)
        self._number += 1
        return reading, sum(pack.num_tokens for pack in packs), waited

    def turn(self) -> dict[str, float]:
        """As the training loop does: a step's figures are read while the next one runs."""
        watch, tokens, waited = Stopwatch(), 0, 0.0
        with watch:
            late = None
            for _ in range(self._steps):
                reading, count, wait = self.step()
                tokens, waited = tokens + count, waited + wait
                if late is not None:
                    late.sums()  # type: ignore[attr-defined]
                late = reading
            late.sums()  # type: ignore[union-attr]
        torch.cuda.empty_cache()  # the others need the room
        return {**figures(tokens, watch), "data_wait": waited / watch.seconds}


def synchronisations(course: Course) -> str:
    """Where a step makes the host wait for the card, its figures not being read."""
    if not torch.cuda.is_available():
        return "no card"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        course.step()
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(one.filename).name}:{one.lineno}" for one in seen if "synchroniz" in str(one)]
    return " ".join(sorted(set(places))) or "none"


def main() -> tuple[dict[str, str], Turn]:
    """What the arguments ask for."""
    case_file, arm, settings, shards, steps = sys.argv[1:6]
    case = read_case(Path(case_file), arm, settings)
    run = prepare_run(case, Path(shards).parent, Path("runs/bench"), World())
    device = init_process_group(run.world, 600.0)
    peak = measured_flops(device, torch.bfloat16)
    course = Course(build(run, device), run.loader.batches(0, 1 << 40), int(steps))
    course.turn()
    facts = {"syncs": synchronisations(course), "peak": str(peak)}
    return facts | {"memory": f"{peak_memory_gb(device):.1f}"}, course.turn


if __name__ == "__main__":
    serve(main)
