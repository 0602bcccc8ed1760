"""How long the training loop waits while a checkpoint is saved; writes `results/saving.md`.

    python -m benchmarks.performance.checkpoint_save --work DIR [--saves 7]

One process trains a model of 40 million parameters with AdamW, so a checkpoint has half a gigabyte.
Steps and saves alternate. `torch.save` with fsync writes the same values for comparison, without
hashes or a manifest. Training is paused while a checkpoint is written; the table says for how long.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common.harness import Spread
from benchmarks.common.tables import publish
from bertds.checkpoint import saver
from bertds.checkpoint.directory import list_checkpoints
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


def make_engine(work: Path) -> Engine:
    """Build the engine with fresh weights."""
    path = work / "saving.json"
    path.write_text(json.dumps(CASE))
    case = read_case(path, "main")
    world = World()
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    split = BatchSplit(micro_batch_size=BATCH, accumulation=1)
    device = init_process_group(world, 600.0)
    return Engine.build(case, model, world, device, split, ScheduleLengths(100, 1000))


def make_batch(seed: int) -> PackedBatch:
    """Make a batch of random tokens."""
    tokens = np.random.default_rng(seed).integers(5, VOCAB_SIZE, BATCH * LENGTH)
    masked = np.arange(0, tokens.size, 7)
    lengths = np.full(BATCH, LENGTH)
    sequences = MaskedSequences.masked_at(masked, tokens=tokens, inputs=tokens, lengths=lengths)
    return pack(sequences, row_length=LENGTH, pad_id=0)


def torch_save(engine: Engine, path: Path) -> None:
    """Write the same values with `torch.save`, and flush them to disk."""
    with path.open("wb") as file:
        values = fragments(engine.deepspeed).items()
        torch.save({key: value.float().cpu() for key, value in values}, file)
        file.flush()
        os.fsync(file.fileno())


def measure(work: Path, saves: int) -> tuple[dict[str, list[tuple[float, float]]], int]:
    """Return wall and processor seconds of each action, and the bytes of a checkpoint."""
    engine = make_engine(work)
    times: dict[str, list[tuple[float, float]]] = {"step": [], "save": [], "torch.save": []}

    def timed(name: str, action: Callable[[], Any]) -> None:
        wall, cores = time.monotonic(), time.process_time()
        action()
        times[name].append((time.monotonic() - wall, time.process_time() - cores))

    for number in range(saves):
        batch = make_batch(number)
        timed("step", lambda batch=batch: engine.train_step([batch], 0, stop=False).sums())
        timed("save", lambda: saver.save(engine, work, {"step": 0}, keep_last=1, best=False))
        timed("torch.save", lambda: torch_save(engine, work / "peer.pt"))
    (checkpoint,) = list_checkpoints(work)
    return times, sum(path.stat().st_size for path in checkpoint.iterdir())


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="directory on the disk to measure")
    parser.add_argument("--saves", type=int, default=7, help="the first one is warm-up")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as directory:
        times, size = measure(Path(directory), options.saves)
    rows = []
    for name, pairs in times.items():
        wall, cores = (Spread.of([pair[i] for pair in pairs[1:]]) for i in (0, 1))
        row = [name, str(wall), str(cores)]
        if name != "step":
            row += [f"{size / 1e6 / wall.median:,.0f}", f"{wall.median / 600:.2%}"]
        rows.append(row + [""] * (5 - len(row)))
    header = ["", "seconds", "core seconds", "MB/s", "fraction of time, one every 10 minutes"]
    notes = (
        f"A checkpoint has {size / 1e6:,.0f} MB. Figures are medians (minimum-maximum) of "
        f"{options.saves - 1} saves. A save is written and hashed in one pass, 12 bytes/parameter, "
        "divided over the ranks: a model 1,000 times larger on 1,000 ranks waits equally long."
    )
    publish("saving", "Cost of saving a checkpoint", header, rows, notes)


if __name__ == "__main__":
    main()
