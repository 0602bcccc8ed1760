"""What saving costs the training loop; `results/saving.md`.

    python benchmarks/saving.py --work DIR [--saves 7]

One process, a model of 40 million parameters under AdamW, so a checkpoint of half a gigabyte: steps
and saves in turns, and beside them the same numbers by `torch.save` and fsync, which writes no hash
and no manifest. The loop stands still while a checkpoint is written; the table says for how long.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import publish

from bertds.checkpoint import saver
from bertds.config.batch import BatchSplit
from bertds.config.case import read_case
from bertds.data.packing import MaskedSequences, PackedBatch, pack
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.optimizer_state import fragments
from bertds.engine.process_group import init_process_group
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import ScheduleLengths

VOCAB_SIZE, BATCH, LENGTH = 20_000, 8, 32
CASE: dict[str, Any] = {
    "train_batch_size": BATCH,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01}},
    "bf16": {"enabled": True},
    "zero_optimization": {"stage": 1},
    "bertds": {
        "model": {
            "hidden_size": 512,
            "num_hidden_layers": 9,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
            "max_position_embeddings": LENGTH,
        },
        "data": {"train": [{"name": "none"}], "seq_len": LENGTH},
        "run": {"max_steps": 1000},
    },
}


def engine_of(work: Path) -> Engine:
    """A fresh one."""
    path = work / "saving.json"
    path.write_text(json.dumps(CASE))
    case = read_case(path, "main")
    world = World()
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    split = BatchSplit(micro_batch_size=BATCH, accumulation=1)
    device = init_process_group(world, 600.0)
    return Engine.build(case, model, world, device, split, ScheduleLengths(100, 1000))


def batch_of(number: int) -> PackedBatch:
    """Any tokens."""
    generator = np.random.default_rng(number)
    tokens = generator.integers(5, VOCAB_SIZE, BATCH * LENGTH)
    masked = np.arange(0, tokens.size, 7)
    lengths = np.full(BATCH, LENGTH)
    sequences = MaskedSequences.masked_at(masked, tokens=tokens, inputs=tokens, lengths=lengths)
    return pack(sequences, row_length=LENGTH, pad_id=0)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of all threads of this process."""
    clock, cores = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - clock, time.process_time() - cores


def torch_save(one: Engine, path: Path) -> None:
    """The same numbers, on the disk."""
    with path.open("wb") as file:
        torch.save({k: v.float().cpu() for k, v in fragments(one.deepspeed).items()}, file)
        file.flush()
        os.fsync(file.fileno())


def measure(work: Path, saves: int) -> tuple[dict[str, list[tuple[float, float]]], int]:
    """Times by what was done, and the bytes of a checkpoint."""
    one = engine_of(work)
    times: dict[str, list[tuple[float, float]]] = {"step": [], "save": [], "torch.save": []}
    state = {"step": 0}
    for number in range(saves):
        step = batch_of(number)
        times["step"].append(timed(lambda step=step: one.train_step([step], 0, stop=False).sums()))
        times["save"].append(timed(lambda: saver.save(one, work, state, keep_last=1, best=False)))
        times["torch.save"].append(timed(lambda: torch_save(one, work / "peer.pt")))
    (folder,) = saver.folders(work)
    return times, sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--saves", type=int, default=7)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as directory:
        times, size = measure(Path(directory), options.saves)
        shutil.rmtree(Path(directory) / "checkpoints")
    rows = []
    for name, pairs in times.items():
        clock, cores = ([pair[i] for pair in pairs[1:]] for i in (0, 1))  # the first one warms up
        speed = "" if name == "step" else f"{size / 1e6 / statistics.median(clock):,.0f}"
        share = "" if name == "step" else f"{statistics.median(clock) / 600:.2%}"
        rows.append([name, _spread(clock), _spread(cores), speed, share])
    header = ["", "seconds", "core seconds", "MB/s", "of the time, one every 10 minutes"]
    notes = (
        f"A checkpoint of {size / 1e6:,.0f} MB; medians (least-most) of {options.saves - 1}. "
        "A save is written and hashed in one pass, 12 bytes a parameter, divided over the "
        "processes: a thousandfold model on a thousand processes stands still as long."
    )
    publish("saving", "What saving costs the loop", header, rows, notes)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
