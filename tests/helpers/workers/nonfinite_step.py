"""Losses and gradients that are not finite in one process of real engines; by `tests.gloo`.

python tests/helpers/workers/nonfinite_step.py DIRECTORY
"""

import datetime
import itertools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bertds.checkpoint import saver
from bertds.config.batch import BatchSplit
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.optimizer_state import fragments
from bertds.engine.process_group import destroy_process_group
from bertds.engine.progress import progress
from bertds.engine.zero_layout import parameter_shards
from bertds.errors import NonFiniteError
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import ScheduleLengths
from tests.engine.test_engine import VOCAB_SIZE, case_of, packs
from tests.helpers.gloo import emit

WORLD = World.detect()
SCHEDULE = {"type": "WarmupLinearLR", "params": {"warmup_num_steps": 4}}
DEEPSPEEDS = {"type": "WarmupLR", "params": {"warmup_num_steps": 4, "warmup_type": "linear"}}
LAST = WORLD.world_size - 1


def nan_loss(loss: torch.Tensor) -> torch.Tensor:
    return loss * math.nan


def infinite_loss(loss: torch.Tensor) -> torch.Tensor:
    """The gradient alone would be finite."""
    return loss + math.inf


def infinite_gradient(loss: torch.Tensor) -> torch.Tensor:
    """The loss alone would be finite."""
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


FAULTS = (nan_loss, infinite_loss, infinite_gradient)
Fault = Callable[[torch.Tensor], torch.Tensor]


def build(scratch: Path, stage: int, precision: str, schedule: dict[str, Any]) -> Engine:
    changes: dict[str, Any] = {"zero_optimization": {"stage": stage}, "scheduler": schedule}
    if precision == "bf16":
        changes["bf16"] = {"enabled": True}
    directory = scratch / f"rank{WORLD.rank}"
    directory.mkdir(exist_ok=True)
    case = case_of(directory, train_batch_size=8 * WORLD.world_size, **changes)
    torch.manual_seed(0)
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    split = BatchSplit(micro_batch_size=4, accumulation=2)
    return Engine.build(case, model, WORLD, torch.device("cpu"), split, ScheduleLengths(5, 10))


def step(engine: Engine, number: int) -> float:
    """Make one step with this rank's batches; returns the ranks that skipped it."""
    mine = packs(number * WORLD.world_size + WORLD.rank, 2)
    return engine.train_step(mine, number, stop=False).sums().skips


def bad_step(engine: Engine, number: int, fault: Fault, micro_step: int) -> float:
    """The same with a fault in one micro-step of the last rank."""
    counter = itertools.count()

    def spoil(_: Any, __: Any, outputs: tuple[torch.Tensor, torch.Tensor]) -> Any:
        here = next(counter) == micro_step and WORLD.rank == LAST
        return (fault(outputs[0]), outputs[1]) if here else None

    hook = engine.deepspeed.module.register_forward_hook(spoil)
    try:
        return step(engine, number)
    finally:
        hook.remove()


def state(engine: Engine) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in fragments(engine.deepspeed).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def compare(scratch: Path, stage: int, precision: str, fault: Fault, micro_step: int) -> None:
    """With a bad batch in between, and without it: the weights are bit-exact."""
    schedule = SCHEDULE if micro_step else DEEPSPEEDS
    engine = build(scratch, stage, precision, schedule)
    skips = [step(engine, 0), step(engine, 1)]
    before, updates = state(engine), progress(engine.deepspeed)["updates"]
    skips.append(bad_step(engine, 2, fault, micro_step))
    untouched = same(state(engine), before)
    stood = progress(engine.deepspeed)["updates"] == updates
    skips.append(step(engine, 3))
    ours, rate = state(engine), engine.learning_rate
    counters = progress(engine.deepspeed)["counters"]
    engine.close()
    engine = build(scratch, stage, precision, schedule)
    for number in (0, 1, 3):
        step(engine, number)
    emit(
        what=f"{precision} {stage} {fault.__name__} {micro_step}",
        skips=skips,
        untouched=untouched,
        stood=stood,
        same=same(ours, state(engine)),
        rate=rate == engine.learning_rate,
        counters=[counters["global_steps"], counters["skipped_steps"]],
    )
    engine.close()


def refuse(scratch: Path, stage: int) -> None:
    """A weight of one rank is NaN: no rank writes, and all raise the same error."""
    engine = build(scratch, stage, "fp32", SCHEDULE)
    step(engine, 0)
    saver.save(engine, scratch / f"run{stage}", {}, keep_last=1, best=False)
    if WORLD.rank == LAST:
        part = next(shard for shard in reversed(parameter_shards(engine.deepspeed)) if shard.length)
        part.of(part.master)[-1] = math.inf
    said = ""
    try:
        saver.save(engine, scratch / f"run{stage}", {}, keep_last=1, best=False)
    except NonFiniteError as error:
        said = str(error)
    left = sorted(path.name for path in (scratch / f"run{stage}" / "checkpoints").iterdir())
    emit(what=f"save {stage}", said=said, left=left)
    engine.close()


def main(scratch: Path) -> None:
    for number, (precision, stage) in enumerate(itertools.product(("fp32", "bf16"), range(4))):
        faults = FAULTS if number == 0 else (FAULTS[number % 3],)
        for fault in faults:
            compare(scratch, stage, precision, fault, (number + 1) % 2)
    for stage in (0, 2):
        refuse(scratch, stage)


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
    deepspeed.init_distributed("gloo", verbose=False)
    main(Path(sys.argv[1]))
    destroy_process_group()
