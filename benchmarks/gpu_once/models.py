"""What is measured: models, each at one sequence length, and the shards of that length."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertds.config.case import Case, read_case
from bertds.data.shards.reader import ShardSet
from bertds.metrics.flops import model_flops_per_token

CASE = Path(__file__).resolve().parents[1] / "performance" / "train_step.json"
NO_DROPOUT = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
TINY = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
}
TINY_MICRO = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model at one sequence length."""

    name: str
    seq_len: int
    micro: int
    """Micro-batch size of all programs."""
    words: int | None
    """Median words of a document of concatenated sentences. None: each sentence is a document."""
    block: dict[str, Any]
    """Changes to the model of the case file."""

    @property
    def dataset(self) -> str:
        """Name of its shards."""
        return f"length{self.seq_len}/train"

    def micro_batch_size(self, *, tiny: bool) -> int:
        """Sequences of a micro-batch."""
        return TINY_MICRO if tiny else self.micro

    def case(self, accumulation: int, *, tiny: bool, compiled: bool = False) -> Case:
        """Return the case that trains it."""
        block = {"max_position_embeddings": self.seq_len, **self.block, **(TINY if tiny else {})}
        micro = self.micro_batch_size(tiny=tiny)
        settings: dict[str, Any] = {
            **{f"model.{key}": value for key, value in block.items()},
            "data.train": [{"name": self.dataset}],
            "data.seq_len": self.seq_len,
            "train_batch_size": micro * accumulation,
            "run.max_steps": 1_000_000,
            "run.max_micro_batch_size": micro,
            **({"run.compile": True} if compiled else {}),
        }
        text = ",".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        return read_case(CASE, "main", text)


def bert(hidden: int, layers: int) -> dict[str, Any]:
    """Return the sizes of a BERT with heads of width 64."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 4 * hidden}
    return {**sizes, "num_attention_heads": hidden // 64, "hidden_act": "gelu", **NO_DROPOUT}


MODERNBERT = {
    **dict.fromkeys(("norm", "hidden_act", *NO_DROPOUT)),  # another preset, other defaults
    "preset": "modernbert",
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
}
MODELS = (
    Model(name="bert-base", seq_len=512, micro=128, words=150, block=bert(768, 12)),
    Model(name="bert-large", seq_len=128, micro=256, words=60, block=bert(1024, 24)),
    Model(name="modernbert-base", seq_len=1024, micro=64, words=300, block=MODERNBERT),
    # Sentences, and the model of the case file.
    Model(name="case11", seq_len=256, micro=256, words=None, block={}),
)


def model_named(name: str) -> Model:
    """Return one of `MODELS`."""
    (model,) = (model for model in MODELS if model.name == name)
    return model


def flops_per_token(case: Case, shards: ShardSet, vocab_size: int) -> float:
    """Return the FLOPs of a real token; local attention counts as global attention."""
    model = case.bertds.model
    blocks = (shards.read_block(number).lengths for number in range(shards.num_blocks))
    lengths = np.concatenate(list(blocks)).astype(np.float64)
    return model_flops_per_token(
        hidden_size=model.hidden_size,
        num_layers=model.num_hidden_layers,
        intermediate_size=model.intermediate_size,
        glu=model.feed_forward == "glu",
        mean_length=float((lengths**2).sum() / lengths.sum()),
        vocab_size=vocab_size,
        masked_share=case.bertds.masking.ratio,
    )
