"""Host time of an update with the fused gradient checks and with DeepSpeed's own.

Writes `results/update.md`.

python -m benchmarks.performance.gradient_checks [--rounds 15]
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.harness import Spread, ratio
from benchmarks.common.tables import publish
from bertds.config.batch import BatchSplit
from bertds.config.case import Case, read_case
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.data.packing import MaskedSequences, PackedBatch, pack
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.gradient_checks import REPLACED, fuse_gradient_checks
from bertds.engine.process_group import destroy_process_group, init_process_group
from bertds.model.mlm import MaskedLanguageModel

STEPS = 10  # per turn
VOCAB_SIZE = 500
NOTES = """
Milliseconds of the update (`Engine.timer`) in one process with one thread, bf16, gradient clipping. The
model has the layers of `bert_base` at width 64, so that its 155 parameters count and not their size. Both
ways take turns of 10 steps in the same engine. A GPU does the arithmetic of an update beside the host, so
this is the part that the host still has to do there. It cannot show the waits, of which the fused checks
have one and DeepSpeed's have six.
"""


def main() -> None:
    """Compare both ways at ZeRO 1 and 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = init_process_group(World(), timeout_s=600)
    rows = [measure(stage, options.rounds, device) for stage in (1, 2)]
    header = ["ZeRO", "fused, ms", "DeepSpeed's own, ms", "× (time)"]
    publish("update", "Gradient checks of an update", header, rows, NOTES)
    destroy_process_group()


def measure(stage: int, rounds: int, device: torch.device) -> list[str]:
    """Return the row of one ZeRO stage."""
    case = make_case(stage)
    torch.manual_seed(0)
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    split = BatchSplit(micro_batch_size=4, accumulation=1)
    engine = Engine.build(case, model, World(), device, split, ScheduleLengths(1000, 1000))
    optimizer = engine.deepspeed.optimizer
    fused: list[float] = []
    own: list[float] = []
    run_turn(engine)
    for _ in range(rounds):
        fused.append(run_turn(engine))
        for name in REPLACED:
            delattr(optimizer, name)  # the class's own method is behind it
        own.append(run_turn(engine))
        fuse_gradient_checks(optimizer)
    engine.close()
    return [str(stage), str(Spread.of(fused)), str(Spread.of(own)), str(ratio(fused, own))]


def run_turn(engine: Engine) -> float:
    """Return the milliseconds of an update, as the mean over a few steps."""
    engine.timer.seconds()
    for step in range(STEPS):
        engine.train_step([make_pack(step)], step, stop=False)
    return 1000 * engine.timer.seconds()["update"] / STEPS


def make_pack(step: int) -> PackedBatch:
    """Return four sequences of random tokens, a few of them masked."""
    tokens = np.random.default_rng(step).integers(5, VOCAB_SIZE, 64)
    masked, lengths = np.arange(0, 64, 7), np.full(4, 16)
    sequences = MaskedSequences.masked_at(masked, tokens=tokens, inputs=tokens, lengths=lengths)
    return pack(sequences, row_length=16, pad_id=0)


def make_case(stage: int) -> Case:
    """Return a case with the layers of `bert_base` at width 64."""
    model = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
    content = {
        "train_batch_size": 4,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "weight_decay": 0.01}},
        "bertds": {
            "model": model | {"num_hidden_layers": 12, "max_position_embeddings": 16},
            "data": {"train": [{"name": "none"}], "seq_len": 16},
            "run": {"max_steps": 1000},
        },
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "update.json")
        path.write_text(json.dumps(content), encoding="utf-8")
        return read_case(path, "main", "")


if __name__ == "__main__":
    main()
