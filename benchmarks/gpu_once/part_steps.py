"""Part: training steps of the real engine on the real data loader: speed, memory, waits, or a trace.

python -m benchmarks.gpu_once.part_steps MODEL ACCUMULATION DATA [--tiny] [--compiled] [--trace FILE]
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.common.training_session import open_until_exit
from benchmarks.gpu_once.models import flops_per_token, model_named
from benchmarks.gpu_once.worker import report, skip, wait_for_turn
from bertds.config.schema import RunConfig
from bertds.data.packing import PackedBatch
from bertds.engine.engine import Engine
from bertds.metrics.accumulators import AsyncSums
from bertds.planner.memory import MicroBatch, memory
from bertds.training.run_setup import RunSetup
from bertds.training.trainer import build_engine

REPEATS = 3
MICRO_STEPS = 16  # of a repeat
TRACED = 3  # steps
LONGEST = 10  # kernels
WAIT = "called a synchronizing CUDA operation"  # torch's warning


class Steps:
    """Training steps, one after the other."""

    def __init__(self, engine: Engine, batches: Iterator[list[PackedBatch]]) -> None:
        self._engine, self._batches = engine, batches
        self._number = 0
        self.largest = MicroBatch(num_tokens=0, num_masked=0, row_length=0)
        """Of all steps so far; row_length is that of the varlen kernel."""

    def step(self) -> tuple[AsyncSums, int, float]:
        """Run one step. Return its unread sums, its tokens, and the seconds waited for data."""
        before = time.perf_counter()
        packs = next(self._batches)
        waited = time.perf_counter() - before
        for pack in packs:
            if pack.inputs.size > self.largest.num_tokens:
                tokens, masked = pack.inputs.size, pack.masked.size
                self.largest = MicroBatch(num_tokens=tokens, num_masked=masked, row_length=0)
        sums = self._engine.train_step(packs, self._number, stop=False)
        self._number += 1
        return sums, sum(pack.num_tokens for pack in packs), waited

    def run(self, count: int) -> dict[str, float]:
        """Run steps; as in training, the sums of one are read while the next one runs."""
        tokens, waited, loss = 0, 0.0, float("nan")
        begin = time.perf_counter()
        previous: AsyncSums | None = None
        for _ in range(count):
            sums, step_tokens, step_wait = self.step()
            tokens, waited = tokens + step_tokens, waited + step_wait
            if previous is not None:
                previous.sums()
            previous = sums
        if previous is not None:
            loss = previous.sums().mean_loss
        seconds = time.perf_counter() - begin
        return {
            "tokens_per_s": tokens / seconds,
            "step_seconds": seconds / count,
            "step_tokens": tokens / count,
            "data_wait": waited / seconds,
            "loss": loss,
        }


def measure(run: RunSetup, device: torch.device, steps: Steps, *, tiny: bool) -> dict[str, Any]:
    """Return the rates of a few repeats, the peak memory, the estimate of `plan`, and the waits."""
    count = 1 if tiny else max(2, MICRO_STEPS // run.split.accumulation)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    repeats = [steps.run(count) for _ in range(REPEATS)]
    result = {
        "micro_batch_size": run.split.micro_batch_size,
        "accumulation": run.split.accumulation,
        "flops_per_token": flops_per_token(run.case, run.train[0].shards, run.vocabulary.size),
        "repeats": repeats,
        "planned_gib": planned_bytes(run, device, steps.largest) / 2**30,
    }
    if device.type == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        result["waits"] = find_waits(steps)
    return result


def planned_bytes(run: RunSetup, device: torch.device, largest: MicroBatch) -> int:
    """Return what `plan` estimates for the largest micro-batch so far."""
    return memory(
        run.case,
        run.case.deepspeed["zero_optimization"]["stage"],
        run.world.world_size,
        largest,
        vocab_size=run.vocabulary.size,
        accumulation=run.split.accumulation,
        on_gpu=device.type == "cuda",
    ).peak


def find_waits(steps: Steps) -> dict[str, int]:
    """Return how often a line of code makes the host wait for the GPU in a step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        steps.step()
        torch.cuda.set_sync_debug_mode("default")
    waits: dict[str, int] = {}
    for warning in caught:
        if WAIT in str(warning.message):
            place = f"{Path(warning.filename).name}:{warning.lineno}"
            waits[place] = waits.get(place, 0) + 1
    return waits


def trace(device: torch.device, steps: Steps, file: Path) -> dict[str, Any]:
    """Trace a few steps; return the kernels that took longest in total."""
    activities = [ProfilerActivity.CPU]
    column = "self_cpu_time_total"
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        column = "self_device_time_total"
    with profile(activities=activities) as profiler:
        steps.run(TRACED)
    profiler.export_chrome_trace(str(file))
    # A kernel on a GPU is an event of its own; the operator that launched it counts it again.
    events = [event for event in profiler.key_averages() if _is_kernel(event, device)]
    events.sort(key=lambda event: getattr(event, column), reverse=True)
    total = sum(getattr(event, column) for event in events)
    return {
        "steps": TRACED,
        "kernel_seconds": total / 1e6,
        "kernels": sum(event.count for event in events),
        "longest": [
            {
                "name": event.key,
                "count": event.count,
                "seconds": getattr(event, column) / 1e6,
                "share": getattr(event, column) / total,
            }
            for event in events[:LONGEST]
        ],
    }


def _is_kernel(event: Any, device: torch.device) -> bool:
    on_gpu = event.device_type != torch.autograd.DeviceType.CPU
    # An annotated range, such as an optimizer step, contains kernels.
    return on_gpu == (device.type == "cuda") and not event.is_user_annotation


def main() -> None:
    """Prepare, wait for the device, measure or trace, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("accumulation", type=int)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--trace", type=Path)
    options = parser.parse_args()
    if options.compiled and "compile" not in RunConfig.model_fields:
        skip("this version of the project has no run.compile")
    case = model_named(options.model).case(
        options.accumulation, tiny=options.tiny, compiled=options.compiled
    )
    run, device = open_until_exit(case, options.data)
    steps = Steps(build_engine(run, device), run.loader.batches(0, 1 << 40))
    if options.compiled:  # before the turn, so that no other part waits for the compilation
        steps.run(1)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    wait_for_turn()
    steps.run(2)
    if options.trace is not None:
        report(trace(device, steps, options.trace))
    else:
        report(measure(run, device, steps, tiny=options.tiny))


if __name__ == "__main__":
    main()
