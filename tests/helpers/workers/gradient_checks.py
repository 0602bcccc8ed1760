"""Steps with DeepSpeed's own gradient checks and with the fused ones; by `tests.gloo`.

python tests/helpers/workers/gradient_checks.py DIRECTORY
"""

import datetime
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from bertds.config.batch import BatchSplit
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.gradient_checks import REPLACED
from bertds.engine.optimizer_state import fragments
from bertds.engine.process_group import destroy_process_group
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import ScheduleLengths
from tests.engine.test_engine import VOCAB_SIZE, case_of, packs
from tests.helpers.gloo import emit

WORLD = World.detect()
# The first scale is too large, so a step is skipped.
FP16 = {"enabled": True, "initial_scale_power": 17, "hysteresis": 1, "loss_scale_window": 2}
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"bf16": {"enabled": True}},
    "bf16, summed in fp32": {
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
    },
    "fp16": {"fp16": FP16},
}
CASES: list[tuple[int, str, float]] = [
    (1, "fp32", 0.05),
    (2, "fp32", 0),
    (2, "bf16", 0.05),
    (2, "bf16, summed in fp32", 0.05),
    (1, "fp16", 0.05),
]


def build(scratch: Path, stage: int, precision: str, clip: float) -> Engine:
    changes = PRECISIONS[precision] | {
        "zero_optimization": {"stage": stage},
        "gradient_clipping": clip,
        "train_batch_size": 8 * WORLD.world_size,
    }
    directory = scratch / f"rank{WORLD.rank}"
    directory.mkdir(exist_ok=True)
    case = case_of(directory, **changes)
    torch.manual_seed(0)
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    split = BatchSplit(micro_batch_size=4, accumulation=2)
    return Engine.build(case, model, WORLD, torch.device("cpu"), split, ScheduleLengths(5, 10))


def trained(engine: Engine) -> tuple[list[list[float]], dict[Any, torch.Tensor]]:
    """Loss, norm and skips of each step, and the weights and moments at the end."""
    steps = []
    for step in range(4):
        mine = packs(step * WORLD.world_size + WORLD.rank, 2)
        sums = engine.train_step(mine, step, stop=False).sums()
        steps.append([sums.mean_loss, float(engine.grad_norm), sums.skips])
    return steps, {key: value.clone() for key, value in fragments(engine.deepspeed).items()}


def compare(scratch: Path, stage: int, precision: str, clip: float) -> None:
    engine = build(scratch, stage, precision, clip)
    ours, our_weights = trained(engine)
    engine.close()
    engine = build(scratch, stage, precision, clip)
    for name in REPLACED:
        delattr(engine.deepspeed.optimizer, name)  # DeepSpeed's own methods are behind it
    theirs, their_weights = trained(engine)
    engine.close()
    emit(
        what=[stage, precision, clip],
        ours=ours,
        theirs=theirs,
        is_bit_exact=all(our_weights[key].equal(their_weights[key]) for key in their_weights),
    )


def main(scratch: Path) -> None:
    for stage, precision, clip in CASES:
        compare(scratch, stage, precision, clip)


if __name__ == "__main__":
    import deepspeed

    dist.init_process_group(
        "gloo",
        init_method=f"file://{os.environ['MEETING']}",
        rank=WORLD.rank,
        world_size=WORLD.world_size,
        timeout=datetime.timedelta(seconds=300),
    )
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    type(get_accelerator()).is_fp16_supported = lambda _: True
    deepspeed.init_distributed("gloo", verbose=False)
    main(Path(sys.argv[1]))
    destroy_process_group()
