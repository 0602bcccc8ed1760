"""Program: optimizer steps at every ZeRO stage and precision, on one rank of two."""

from tests.fake_cuda.card import use_fake_card  # isort: skip - before torch

from importlib import import_module
from typing import Any

from bertds.distributed.world import World
from bertds.engine.process_group import init_process_group
from tests.fake_cuda.programs import write_result
from tests.fake_cuda.training import Batch, record_steps, small_case

WORLD = World(world_size=2, local_size=1)
VOCAB_SIZE = 500
COMBINATIONS = [
    (stage, precision)
    for stage in range(4)
    for precision in ("bf16", "fp16", "fp32")
    if (stage, precision) != (0, "fp16")
]


def waits_at(stage: int, precision: str, device: Any) -> list[list[Any]]:
    """(times, wait, place) of the last of a few steps, in the order of their first occurrence."""
    case = small_case(stage, precision)
    batch = Batch(sequences=16, mean_length=20).pack(case, VOCAB_SIZE)
    # DeepSpeed learns the order of the modules in the first step at ZeRO 3, which waits more.
    steps = [[batch, batch]] * (3 if stage == 3 else 2)
    waits = record_steps(case, WORLD, device, steps, VOCAB_SIZE)[-1].waits
    return [[times, wait, place] for (wait, place), times in waits.items()]


if __name__ == "__main__":
    use_fake_card(WORLD.world_size)
    device = init_process_group(WORLD, 600.0)
    # It compares integers of all ranks at ZeRO 3, but no rank has sent any.
    coordinator: Any = import_module("deepspeed.runtime.zero.partitioned_param_coordinator")
    coordinator.assert_ints_same_as_other_ranks = lambda _: None
    write_result({f"{s} {p}": waits_at(s, p, device) for s, p in COMBINATIONS})
