"""Steps with an optimizer of ours, from a fresh model or from a checkpoint; by `tests.gloo`.

python tests/helpers/workers/own_optimizers.py DIRECTORY OPTIMIZER PRECISION STAGES SOURCE ...

For each SOURCE (`fresh`, or a run directory of an earlier call) and each of the STAGES: steps up to the
sixth, after which rank 0 writes weights and moments to DIRECTORY. The global batch is the same for any
number of ranks.
"""

import datetime
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from bertds.checkpoint import saver
from bertds.config.batch import BatchSplit
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.optimizer_state import fragments
from bertds.engine.process_group import destroy_process_group
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import ScheduleLengths
from tests.engine.test_engine import VOCAB_SIZE, case_of, packs

WORLD = World.detect()
MICRO_BATCHES = 4
ADAMW = {"lr": 1e-2, "eps": 1e-4, "weight_decay": 0.1}
PARAMS = {"Muon": ADAMW | {"muon_lr": 2e-2, "muon_weight_decay": 0.2}, "StableAdamW": ADAMW}
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "bf16_fp32": {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8}},
}


def build(scratch: Path, kind: str, stage: int, precision: str) -> Engine:
    directory = scratch / f"rank{WORLD.rank}"
    directory.mkdir(exist_ok=True)
    case = case_of(
        directory,
        "model.feed_forward=glu,model.num_hidden_layers=2,scheduler.type=WarmupLinearLR,"
        'scheduler.params={"warmup_num_steps":2}',
        optimizer={"type": kind, "params": PARAMS[kind]},
        gradient_clipping=0.05,
        zero_optimization={"stage": stage},
        train_batch_size=4 * MICRO_BATCHES,
        **PRECISIONS[precision],
    )
    torch.manual_seed(0)
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    split = BatchSplit(micro_batch_size=4, accumulation=MICRO_BATCHES // WORLD.world_size)
    device = torch.device("cpu")
    return Engine.build(case, model, WORLD, device, split, ScheduleLengths(5, 10))


def train(engine: Engine, first: int, steps: int) -> None:
    for step in range(first, first + steps):
        mine = packs(step, MICRO_BATCHES)[WORLD.rank :: WORLD.world_size]
        assert engine.train_step(mine, step, stop=False).sums().skips == 0


def whole_state(engine: Engine) -> dict[str, Tensor]:
    """Weights and moments of all ranks, by kind and name."""
    parts: list[dict[tuple[str, str, int], Tensor]] = [{} for _ in range(WORLD.world_size)]
    dist.all_gather_object(parts, {tuple(key): v for key, v in fragments(engine.deepspeed).items()})
    by_name: dict[str, list[tuple[int, Tensor]]] = {}
    for (kind, name, start), part in (item for each in parts for item in each.items()):
        by_name.setdefault(f"{kind}|{name}", []).append((start, part))
    return {
        name: torch.cat([part for _, part in sorted(pieces, key=lambda piece: piece[0])])
        for name, pieces in by_name.items()
    }


def run(scratch: Path, source: str, kind: str, stage: int, precision: str) -> None:
    """Reach step 6: from step 0 with a checkpoint at step 3, or from a checkpoint."""
    engine = build(scratch, kind, stage, precision)
    name = f"{precision} {stage} {WORLD.world_size}"
    if source == "fresh":
        train(engine, 0, 3)
        saver.save(engine, scratch / name, {}, keep_last=1, best=False)
    else:
        newest = saver.find_newest(engine, scratch / source)
        assert newest is not None
        saver.load(engine, newest)
    train(engine, 3, 3)
    state = whole_state(engine)
    if WORLD.is_main:
        torch.save(state, scratch / f"{source} into {name}.pt")
    engine.close()


def main(scratch: Path, kind: str, precision: str, stages: str, *sources: str) -> None:
    """Every source at every stage."""
    for source, stage in itertools.product(sources, stages):
        run(scratch, source, kind, int(stage), precision)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    # DeepSpeed rejects fp16 on CPU because it is slow; it works.
    get_accelerator().is_fp16_supported = lambda: True
    dist.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['MEETING']}",
        rank=WORLD.rank,
        world_size=WORLD.world_size,
        timeout=datetime.timedelta(seconds=300),
    )
    main(Path(sys.argv[1]), *sys.argv[2:])
    destroy_process_group()
