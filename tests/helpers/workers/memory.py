"""A process of the test of the plan: trains on packs of one size and emits what memory that took.

Arguments: case file, vocabulary size, tokens of a micro-batch, masked tokens of it.
"""

import sys
from pathlib import Path

import numpy as np

from bertds.config.batch import split_batch
from bertds.config.case import read_case
from bertds.data.packing import MaskedSequences, PackedBatch, pack
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.process_group import destroy_process_group, init_process_group
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import ScheduleLengths
from tests.helpers.gloo import emit
from tests.helpers.weights import count_parameters


def resident(key: str) -> int:
    """Resident bytes of this process: now (VmRSS), or the peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def packs(
    num_tokens: int, num_masked: int, length: int, vocab_size: int, count: int
) -> list[PackedBatch]:
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, vocab_size, num_tokens)
    masked = np.sort(generator.choice(num_tokens, num_masked, replace=False))
    lengths = np.full(num_tokens // length, length)
    sequences = MaskedSequences.masked_at(masked, tokens=tokens, inputs=tokens, lengths=lengths)
    return [pack(sequences, row_length=length, pad_id=0)] * count


def main() -> None:
    case = read_case(Path(sys.argv[1]), "main")
    vocab_size, num_tokens, num_masked = map(int, sys.argv[2:5])
    world = World.detect()
    device = init_process_group(world, 300.0)
    split = split_batch(case, world.world_size)
    batch = packs(num_tokens, num_masked, case.bertds.data.seq_len, vocab_size, split.accumulation)
    before = resident("VmRSS")
    model = MaskedLanguageModel(case.bertds.model, vocab_size, 0)
    parameters = count_parameters(model)
    engine = Engine.build(case, model, world, device, split, ScheduleLengths(5, 10))
    engine.train_step(batch, 0, stop=False)  # the optimizer's moments come with the first step
    rest = resident("VmRSS") - before
    forget_peak()
    engine.train_step(batch, 1, stop=False)
    emit(parameters=parameters, rest=rest, peak=resident("VmHWM") - before)
    engine.close()
    destroy_process_group()


if __name__ == "__main__":
    main()
