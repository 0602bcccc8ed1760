"""Worker: training steps of transformers' BertForMaskedLM, in the environment of the peers.

python -m benchmarks.performance.train_step_transformers ARRAYS CONFIG

ARRAYS is a directory of plain arrays, CONFIG a JSON object of `Config`. Batches are made before the
clock starts. bertds, in contrast, waits for its data loader.
"""

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from benchmarks.common.harness import Stopwatch, Turn, serve
from benchmarks.common.peer_tokenizer import load_tokenizer

BATCH = 256
MEGABATCH = 50  # batches sorted by length together, as in transformers' Trainer
NUM_BATCHES = 8  # made in advance; the turns cycle through them


@dataclass(frozen=True, slots=True)
class Config:
    """How the peer trains."""

    micro: int
    """Micro-batch size."""
    grouped: bool = False
    """Group sequences of similar length into batches."""
    masked_rows: bool = False
    """Compute logits on masked rows only."""
    precision: str = "autocast"
    """`autocast` to bf16, `bf16` weights, or `fp32`."""
    attention: str = "sdpa"
    padded: int = 1
    """Pad lengths to a multiple of this."""
    fused: bool = False
    """Use the fused AdamW."""
    compiled: bool = False
    part: int = 1
    """A turn computes every `part`-th micro-batch and counts the same fraction of AdamW's time."""


def main() -> tuple[dict[str, str], Turn]:
    """Build model and batches; return the worker's metadata and its turn."""
    arrays, config = Path(sys.argv[1]), Config(**json.loads(sys.argv[2]))
    model = make_model(len(load_tokenizer(arrays)), config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=config.fused)
    torch.manual_seed(0)
    steps = itertools.cycle(make_steps(arrays, config))
    return {"transformers": transformers.__version__}, lambda: run_turn(
        model, optimizer, next(steps), config
    )


def make_model(vocab_size: int, config: Config) -> torch.nn.Module:
    """Build a BERT with the sizes of `train_step.json`."""
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=vocab_size,
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=2048,
        hidden_act="relu",
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation=config.attention,
    )
    model = BertForMaskedLM(sizes).train()
    if config.precision == "bf16":
        model = model.bfloat16()
    if config.compiled:
        model.bert = torch.compile(model.bert, dynamic=True)
    return model


def make_steps(arrays: Path, config: Config) -> list[list[dict[str, torch.Tensor]]]:
    """Return `NUM_BATCHES` global batches, masked, padded and split into micro-batches."""
    collate = DataCollatorForLanguageModeling(
        load_tokenizer(arrays), pad_to_multiple_of=config.padded
    )
    return [
        [
            collate([{"input_ids": row} for row in batch[start : start + config.micro]])
            for start in range(0, len(batch), config.micro)
        ]
        for batch in sample_batches(arrays, config)
    ]


def sample_batches(arrays: Path, config: Config) -> list[list[np.ndarray]]:
    """Sample batches of sequences; grouped ones are sorted by length within each megabatch."""
    ends = np.cumsum(np.load(arrays / "lengths.npy"), dtype=np.int64)
    tokens = np.load(arrays / "tokens.npy", mmap_mode="r")
    generator = np.random.default_rng(0)
    chosen = generator.choice(ends.size, BATCH * MEGABATCH, replace=False)
    starts = np.concatenate([[0], ends[:-1]])
    rows = [tokens[starts[i] : ends[i]].astype(np.int64) for i in chosen]
    if config.grouped:
        rows.sort(key=len, reverse=True)
    order = generator.permutation(MEGABATCH)[:NUM_BATCHES]
    if config.grouped:  # spread evenly over the lengths, so that a few batches are representative
        order = generator.permutation(np.arange(3, MEGABATCH, MEGABATCH // NUM_BATCHES))
    return [rows[number * BATCH : (number + 1) * BATCH] for number in order]


def run_turn(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list, config: Config
) -> dict[str, float]:
    """Run one step, or `1 / config.part` of one."""
    watch, update = Stopwatch(), Stopwatch()
    used = micro_batches[:: config.part]
    with watch:
        for batch in used:
            compute_loss(model, batch, config, len(micro_batches)).backward()
    with update:
        optimizer.step()
        optimizer.zero_grad()
    fraction = len(used) / len(micro_batches)
    watch.seconds += update.seconds * fraction
    watch.cpu_seconds += update.cpu_seconds * fraction
    return watch.answer(sum(int(batch["attention_mask"].sum()) for batch in used))


def compute_loss(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], config: Config, num_micro: int
) -> torch.Tensor:
    """Run the forward pass; the loss is divided by the number of micro-batches."""
    with torch.autocast(
        batch["labels"].device.type, torch.bfloat16, enabled=config.precision == "autocast"
    ):
        if not config.masked_rows:
            return model(**batch).loss / num_micro
        hidden = model.bert(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        is_masked = batch["labels"] != -100
        logits = model.cls(hidden[is_masked])
    return F.cross_entropy(logits.float(), batch["labels"][is_masked]) / num_micro


if __name__ == "__main__":
    serve(main)
