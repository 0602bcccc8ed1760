"""A worker: steps of transformers' BertForMaskedLM, run by the environment of the peers.

python benchmarks/step_peer.py DIR CONFIG, with the directory of the plain arrays and a JSON object
of `Config`. Batches are made before the clock starts, which the other side's are not.
"""

import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from peer_tokenizer import tokenizer_of
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling
from turns import Stopwatch, figures, serve

BATCH = 256
MEGABATCH = 50  # batches that are sorted by length together, as transformers' Trainer does
NUM_BATCHES = 8  # made; turns go round them


@dataclass(frozen=True, slots=True)
class Config:
    """How the peer trains."""

    micro: int
    grouped: bool = False
    """Batches of similar lengths."""
    masked_rows: bool = False
    """Logits on masked rows only."""
    precision: str = "autocast"
    """`autocast` to bf16, `bf16` weights, or `fp32`."""
    attention: str = "sdpa"
    padded: int = 1
    """Lengths are padded to a multiple of it."""
    fused: bool = False
    """AdamW's fused implementation."""
    compiled: bool = False
    part: int = 1
    """A turn does one in so many micro-batches of a step, and counts as much of AdamW's time."""


def main() -> tuple[dict[str, str], Callable[[], dict[str, float]]]:
    """What the arguments ask for."""
    directory, config = Path(sys.argv[1]), Config(**json.loads(sys.argv[2]))
    tokenizer = tokenizer_of(directory)
    model = make_model(len(tokenizer), config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=config.fused)
    torch.manual_seed(0)
    collate = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=config.padded)
    steps = [
        [collate([{"input_ids": row} for row in part]) for part in micros(batch, config.micro)]
        for batch in batches_of(directory, config)
    ]
    rounds = itertools.cycle(steps)
    return {"transformers": transformers.__version__}, lambda: turn(
        model, optimizer, next(rounds), config
    )


def make_model(vocab_size: int, config: Config) -> torch.nn.Module:
    """The same sizes as in `step.json`."""
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


def batches_of(directory: Path, config: Config) -> list[list[np.ndarray]]:
    """Batches of sequences drawn from all; grouped ones sorted in each megabatch."""
    ends = np.cumsum(np.load(directory / "lengths.npy"), dtype=np.int64)
    tokens = np.load(directory / "tokens.npy", mmap_mode="r")
    generator = np.random.default_rng(0)
    chosen = generator.choice(ends.size, BATCH * MEGABATCH, replace=False)
    starts = np.concatenate([[0], ends[:-1]])
    rows = [tokens[starts[i] : ends[i]].astype(np.int64) for i in chosen]
    if config.grouped:
        rows.sort(key=len, reverse=True)
    order = generator.permutation(MEGABATCH)[:NUM_BATCHES]
    if config.grouped:  # evenly over the lengths, so that few batches stand for all
        order = generator.permutation(np.arange(3, MEGABATCH, MEGABATCH // NUM_BATCHES))
    return [rows[number * BATCH : (number + 1) * BATCH] for number in order]


def micros(batch: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    """A batch in micro-batches."""
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def turn(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list, config: Config
) -> dict[str, float]:
    """One step, or a part of one."""
    forward, update = Stopwatch(), Stopwatch()
    used = micro_batches[:: config.part]
    with forward:
        for batch in used:
            loss_of(model, batch, config, len(micro_batches)).backward()
    with update:
        optimizer.step()
        optimizer.zero_grad()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in used)
    share = len(used) / len(micro_batches)
    forward.seconds += update.seconds * share
    forward.cpu_seconds += update.cpu_seconds * share
    return figures(tokens, forward)


def loss_of(model: torch.nn.Module, batch: dict, config: Config, parts: int) -> torch.Tensor:
    """Forward."""
    with torch.autocast(
        batch["labels"].device.type, torch.bfloat16, enabled=config.precision == "autocast"
    ):
        if not config.masked_rows:
            return model(**batch).loss / parts
        hidden = model.bert(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        is_masked = batch["labels"] != -100
        logits = model.cls(hidden[is_masked])
    return F.cross_entropy(logits.float(), batch["labels"][is_masked]) / parts


if __name__ == "__main__":
    serve(main)
