"""Writes a case that continues a Hugging Face model on other text.

The optimizer is that of "Don't Stop Pretraining" (Gururangan et al., 2020, appendix), with a learning rate that
falls with the square root of the batch size.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bertds.config.overrides import Json
from bertds.config.presets import PRESETS
from bertds.data.dataset import check_longest
from bertds.data.shards.reader import ShardSet
from bertds.errors import ConfigError
from bertds.huggingface.model_block import has_mlm_head, model_block

_MOST_SEQUENCES = 256
"""Largest batch."""
_LEAST_STEPS = 1000
"""Of a run, if ten epochs have as many."""
_MOST_EPOCHS = 10
_STEPS_AN_EPOCH = 100
"""The batch is smaller if an epoch would have fewer steps than this."""
_RATE, _RATE_BATCH = 1e-4, 256
_WARMUP = 0.06
_MICRO_TOKENS = 16_384
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewCase:
    """A case file, and why its values are what they are."""

    content: Json
    reasons: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Batch, length and learning rate for a number of sequences."""

    batch: int
    epochs: int
    steps: int
    rate: float

    @classmethod
    def of(cls, sequences: int) -> "Schedule":
        """The schedule for a number of training sequences."""
        most = min(_MOST_SEQUENCES, max(1, sequences // _STEPS_AN_EPOCH))
        batch = 1 << most.bit_length() - 1
        steps = max(1, sequences // batch)  # an epoch drops the remainder
        epochs = min(_MOST_EPOCHS, math.ceil(_LEAST_STEPS / steps))
        rate = float(f"{_RATE * math.sqrt(batch / _RATE_BATCH):.2g}")
        return cls(batch=batch, epochs=epochs, steps=steps * epochs, rate=rate)

    def reasons(self) -> list[str]:
        """Why the values are what they are, one line each."""
        batch = (
            f"batch {self.batch}: the largest power of two up to {_MOST_SEQUENCES} that leaves "
            f"{_STEPS_AN_EPOCH} steps in an epoch"
        )
        length = (
            f"epochs {self.epochs}: {self.steps:,} steps; the aim is {_LEAST_STEPS:,} steps, and at "
            f"most {_MOST_EPOCHS} epochs"
        )
        rate = (
            f"learning rate {self.rate:g}: {_RATE:g} at batch {_RATE_BATCH}, times the square root of "
            f"the ratio of batches; warm-up over {_WARMUP:.0%} of the steps, then linear decay"
        )
        return [batch, length, rate]


def continued_case(model: Path, shards: Path, *, bf16: bool) -> NewCase:
    """Derive a case from a model and the shards to continue it on.

    Args:
        model: A Hugging Face directory with weights.
        shards: A directory with the sets `train` and, for validation, `valid`.
        bf16: Whether to compute in bf16.

    Raises:
        ConfigError: The model is of no supported class, or does not accept the sequences.
        ShardError: A set is missing or damaged.
    """
    if not model.is_dir():
        raise ConfigError(
            f"--from is {str(model)!r}, expected a directory in Hugging Face's format: download the "
            "model first, with hf download NAME --local-dir DIR"
        )
    block = model_block(model)
    shard_set, most = ShardSet.open(shards / "train"), block["max_position_embeddings"]
    check_longest(shard_set, most, model)
    train = shard_set.index
    schedule, seq_len = Schedule.of(train.sequences), min(train.seq_len, most)
    ratio = PRESETS[block["preset"]].masking_ratio
    content = _deepspeed_blocks(schedule, bf16=bf16) | {
        "bertds": {
            "title": f"{model.name} continued on {shards.name}",
            "model": block,
            "data": _data(shards, seq_len),
            "masking": {"ratio": ratio},
            "run": _run(model, schedule, seq_len),
        }
    }
    reasons = [f"model: {block['preset']}, as in {model / 'config.json'}", *schedule.reasons()]
    if not has_mlm_head(model):
        reasons.append("head for masked tokens: the model has none, so a new one is trained")
    reasons.append("no decay of embeddings: rows that training does not read stay as they are")
    reasons.append(f"masking {ratio:.0%}: as this class was pre-trained")
    return NewCase(content=content, reasons=reasons)


def _deepspeed_blocks(schedule: Schedule, *, bf16: bool) -> Json:
    betas = {"betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01}
    warmup = {"warmup_epochs": round(_WARMUP * schedule.epochs, 4)}
    return {
        "train_batch_size": schedule.batch,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": schedule.rate, **betas}},
        "scheduler": {"type": "WarmupLinearLR", "params": warmup},
        "bf16": {"enabled": bf16},
        "zero_optimization": {"stage": 1},
    }


def _data(shards: Path, seq_len: int) -> Json:
    has_valid = (shards / "valid" / "index.json").is_file()
    plain = _NOT_IN_NAMES.sub("-", shards.name).strip("_.+-") or "valid"
    return {
        "train": [{"name": f"{shards.name}/train"}],
        "valid": {plain: {"name": f"{shards.name}/valid"}} if has_valid else {},
        "seq_len": seq_len,
    }


def _run(model: Path, schedule: Schedule, seq_len: int) -> Json:
    tenth = f"{schedule.epochs / 10:g} epochs"
    return {
        "num_epochs": schedule.epochs,
        "init_from": str(model),
        # Rows that training does not read, as those of later positions, stay as they are.
        "no_decay": ["bias", "norm", "embedding"],
        "log_every": 10,
        "eval_every": tenth,
        "save_every": tenth,
        "max_micro_batch_size": max(1, _MICRO_TOKENS // seq_len),
    }
