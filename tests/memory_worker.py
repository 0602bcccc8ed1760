"""A process of the test of the plan: trains on packs of one size and emits what memory that took.

Arguments: case file, vocabulary size, tokens of a micro-batch, masked tokens of it.
"""

import sys
from pathlib import Path

import numpy as np

from bertds import engine as engine_module
from bertds.case.file import read_case, split_batch
from bertds.data.packing import Pack, Sequences, pack
from bertds.engine import Engine
from bertds.model.mlm import MaskedLanguageModel, count_parameters
from bertds.schedule import Lengths
from bertds.world import World
from tests.gloo import emit


def resident(key: str) -> int:
    """Bytes of this process that lie in memory: now (VmRSS), or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def packs(num_tokens: int, num_masked: int, length: int, vocab_size: int, count: int) -> list[Pack]:
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, vocab_size, num_tokens)
    masked = np.sort(generator.choice(num_tokens, num_masked, replace=False))
    lengths = np.full(num_tokens // length, length)
    sequences = Sequences(inputs=tokens, lengths=lengths, masked=masked, labels=tokens[masked])
    return [pack(sequences, row_length=length, pad_id=0)] * count


def main() -> None:
    case = read_case(Path(sys.argv[1]), "main")
    vocab_size, num_tokens, num_masked = map(int, sys.argv[2:5])
    world = World.detect()
    device = engine_module.start(world, 300.0)
    split = split_batch(case, world.world_size)
    batch = packs(num_tokens, num_masked, case.bertds.data.seq_len, vocab_size, split.accumulation)
    before = resident("VmRSS")
    model = MaskedLanguageModel(case.bertds.model, vocab_size, 0)
    parameters = count_parameters(model)
    engine = Engine.build(case, model, world, device, split, Lengths(5, 10))
    engine.train_step(batch, 0, stop=False)  # the optimizer's moments come with the first step
    rest = resident("VmRSS") - before
    forget_peak()
    engine.train_step(batch, 1, stop=False)
    emit(parameters=parameters, rest=rest, peak=resident("VmHWM") - before)
    engine.close()
    engine_module.stop()


if __name__ == "__main__":
    main()
