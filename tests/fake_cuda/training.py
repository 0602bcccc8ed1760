"""Trains on the fake card: the real engine, the real DeepSpeed, and batches of random tokens."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bertds.config.batch import BatchSplit
from bertds.config.case import Case, read_case
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.data.packing import MaskedSequences, PackedBatch, pack
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.metrics.timing import StepTimer
from bertds.model.attention import uses_varlen_attention
from bertds.model.mlm import MaskedLanguageModel
from tests.fake_cuda.recorder import Record, Recorder

_NEXT_PHASE = {"forward": "backward", "backward": "update", "update": "sums"}
_SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A micro-batch of random sequences, whose lengths vary around a mean."""

    sequences: int
    mean_length: int

    def pack(self, case: Case, vocab_size: int) -> PackedBatch:
        """Pack it as the loader of a training run would."""
        rng = np.random.default_rng(self.sequences)
        longest = case.bertds.data.seq_len
        lengths = rng.integers(1, min(2 * self.mean_length, longest + 1), self.sequences)
        ids = rng.integers(5, vocab_size, lengths.sum())
        count = max(1, round(ids.size * case.bertds.masking.ratio))
        masked = np.sort(rng.choice(ids.size, count, replace=False))
        sequences = MaskedSequences.masked_at(masked, tokens=ids, inputs=ids, lengths=lengths)
        varlen = uses_varlen_attention(case.bertds.model, case.precision)
        return pack(sequences, row_length=0 if varlen else longest, pad_id=0)


class _PhaseTimer(StepTimer):
    """Tells the recorder which phase of a step it sees."""

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        super().__init__(device)
        self.recorder = recorder

    def start(self) -> None:
        super().start()
        self.recorder.phase = "forward"

    def mark(self, phase: str) -> None:
        super().mark(phase)
        self.recorder.phase = _NEXT_PHASE[phase]


def small_case(stage: int, precision: str, **model: Any) -> Case:
    """A case with a model of two layers."""
    content: dict[str, Any] = {
        "train_batch_size": 64,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01}},
        "zero_optimization": {"stage": stage},
        "bertds": {
            "model": {**_SMALL, **model},
            "data": {"train": [{"name": "corpus/train"}], "seq_len": 64},
            "run": {"max_steps": 10},
        },
    }
    if precision != "fp32":
        content[precision] = {"enabled": True}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "small.json"
        path.write_text(json.dumps(content))
        return read_case(path, "main")


def record_steps(
    case: Case,
    world: World,
    device: torch.device,
    steps: list[list[PackedBatch]],
    vocab_size: int,
) -> list[Record]:
    """Build an engine, make optimizer steps, and return what each has done.

    Args:
        case: The case.
        world: This process.
        device: The fake card.
        steps: The micro-batches of each step; all steps have the same number of them.
        vocab_size: Number of ids.
    """
    split = BatchSplit(
        micro_batch_size=case.train_batch_size // len(steps[0]) // world.world_size,
        accumulation=len(steps[0]),
    )
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:
        with device:
            model = MaskedLanguageModel(case.bertds.model, vocab_size, 0)
        steps_of_run = case.bertds.run.max_steps
        assert steps_of_run is not None
        lengths = ScheduleLengths(steps_of_run, steps_of_run)
        engine = Engine.build(case, model, world, device, split, lengths)
        engine.timer = _PhaseTimer(device, recorder)
        records = []
        for number, packs in enumerate(steps):
            recorder.take()
            engine.train_step(packs, number, stop=False)
            records.append(recorder.take())
        del model
        engine.close()
    return records
