"""Part: training steps of transformers on the same sequences, with padding or without.

python -m benchmarks.gpu_once.part_peer MODEL padded|flash ACCUMULATION DATA DEVICE [--tiny]

`padded` pads each batch to its longest sequence and uses scaled_dot_product_attention. `flash` joins
the sequences of a batch without padding and uses the flash attention that PyTorch contains. Both use
bf16 autocast and the fused AdamW. Batches are made before the clock starts; bertds, in contrast, waits
for its data loader.
"""

import argparse
import itertools
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from benchmarks.gpu_once.models import Model, model_named
from benchmarks.gpu_once.worker import report, skip, wait_for_turn
from bertds.data.shards.reader import ShardSet
from bertds.data.tokenizer import Tokenizer
from bertds.huggingface.config import config_json

REPEATS = 2
MICRO_STEPS = 16  # of a repeat
MICRO_BATCHES = 16  # made in advance; the steps cycle through them
IGNORED = -100  # the label of a token that is not predicted
Batch = dict[str, Any]


def make_batches(shards: ShardSet, tokenizer: Tokenizer, micro: int, ratio: float) -> list[Batch]:
    """Return masked micro-batches of random sequences, padded to the longest of each."""
    blocks = [shards.read_block(number) for number in range(shards.num_blocks)]
    rows = [
        row for block in blocks for row in np.split(block.tokens, np.cumsum(block.lengths)[:-1])
    ]
    generator = np.random.default_rng(0)
    chosen = generator.integers(len(rows), size=(MICRO_BATCHES, micro))
    batches = []
    for numbers in chosen:
        lengths = np.array([rows[number].size for number in numbers])
        ids = np.full((micro, lengths.max()), tokenizer.special_ids["pad"], dtype=np.int64)
        for row, number in zip(ids, numbers, strict=True):
            row[: rows[number].size] = rows[number]
        real = np.arange(lengths.max()) < lengths[:, None]
        masked = real & (generator.random(ids.shape) < ratio)
        labels = np.where(masked, ids, IGNORED)
        ids[masked] = tokenizer.special_ids["mask"]
        arrays = {"input_ids": ids, "labels": labels, "attention_mask": real.astype(np.int64)}
        batches.append({name: torch.from_numpy(array) for name, array in arrays.items()})
    return batches


def without_padding(batch: Batch) -> Batch:
    """Join the sequences of a batch into one row, with their positions and ends."""
    real = batch["attention_mask"].bool()
    lengths = real.sum(1)
    ends = F.pad(lengths.cumsum(0), (1, 0)).int()
    positions = torch.arange(real.shape[1]).expand_as(real)
    return {
        "input_ids": batch["input_ids"][real][None],
        "labels": batch["labels"][real][None],
        "position_ids": positions[real][None],
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": int(lengths.max()),
        "max_length_k": int(lengths.max()),
    }


def varlen_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each sequence of one row, as transformers calls it."""
    # The rotary embedding of some models returns fp32; the kernel takes 16 bits.
    inputs = [states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value)]
    window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)
    if query.is_cuda:
        ends, length = cu_seq_lens_q, max_length_q
        sizes = {"scale": scaling, "window_size": window}
        return varlen_attn(*inputs, ends, ends, length, length, **sizes)[None], None
    # The kernel runs on CUDA only. This trial on a CPU attends to whole sequences.
    ends = cu_seq_lens_q.tolist()
    parts = []
    for start, stop in itertools.pairwise(ends):
        one = [states[start:stop].transpose(0, 1) for states in inputs]
        parts.append(F.scaled_dot_product_attention(*one, scale=scaling).transpose(0, 1))
    return torch.cat(parts)[None], None


def build(model: Model, tokenizer: Tokenizer, attention: str, *, tiny: bool) -> torch.nn.Module:
    """Return the same architecture as a class of transformers, with random weights."""
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        AutoConfig,
        AutoModelForMaskedLM,
    )

    AttentionInterface.register("varlen", varlen_attention)
    AttentionMaskInterface.register("varlen", lambda *_, **__: None)
    block = model.case(1, tiny=tiny).bertds.model
    sizes = config_json(block, tokenizer.vocab_size, tokenizer.special_ids)
    torch.manual_seed(0)
    config = AutoConfig.for_model(**sizes)
    config._attn_implementation = attention
    return AutoModelForMaskedLM.from_config(config, attn_implementation=attention).train()


class Steps:
    """Optimizer steps over batches that were made in advance."""

    def __init__(self, module: torch.nn.Module, batches: list[Batch], accumulation: int) -> None:
        self._module, self._accumulation = module, accumulation
        self._device = next(module.parameters()).device
        self._optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
        # A sequence without padding has no mask.
        real = [batch.get("attention_mask", torch.ones_like(batch["labels"])) for batch in batches]
        tokens = [int(mask.sum()) for mask in real]
        self._batches = itertools.cycle(zip(batches, tokens, strict=True))

    def run(self, count: int) -> dict[str, float]:
        """Run steps; return their rate."""
        tokens, loss = 0, torch.zeros(())
        begin = time.perf_counter()
        for _ in range(count):
            for batch, size in itertools.islice(self._batches, self._accumulation):
                tokens += size
                loss = self._loss(batch)
                (loss / self._accumulation).backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
        last = loss.item()  # waits for the device
        seconds = time.perf_counter() - begin
        return {
            "tokens_per_s": tokens / seconds,
            "step_seconds": seconds / count,
            "step_tokens": tokens / count,
            "loss": last,
        }

    def _loss(self, batch: Batch) -> Tensor:
        on_device = {
            name: value.to(self._device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        with torch.autocast(self._device.type, torch.bfloat16):
            return self._module(**on_device).loss


def padding_of(batches: list[Batch]) -> float:
    """Return the fraction of the positions that are padding."""
    masks = [batch["attention_mask"] for batch in batches]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def measure(steps: Steps, accumulation: int, device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """Return the rates of a few repeats, and the peak memory."""
    count = 1 if tiny else max(2, MICRO_STEPS // accumulation)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result: dict[str, Any] = {"repeats": [steps.run(count) for _ in range(REPEATS)]}
    if device.type == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return result


def main() -> None:
    """Prepare, wait for the device, measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=model_named)
    parser.add_argument("padding", choices=["padded", "flash"])
    parser.add_argument("accumulation", type=int)
    parser.add_argument("data", type=Path)
    parser.add_argument("device", type=torch.device)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if find_spec("transformers") is None:
        skip("transformers is not installed, and no wheel of it was carried")
    model, directory = options.model, options.data / options.model.dataset
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    micro = model.micro_batch_size(tiny=options.tiny)
    ratio = model.case(1, tiny=options.tiny).bertds.masking.ratio
    batches = make_batches(ShardSet.open(directory), tokenizer, micro, ratio)
    padding, attention = padding_of(batches), "sdpa"
    if options.padding == "flash":
        batches, padding, attention = [without_padding(batch) for batch in batches], 0.0, "varlen"
    with options.device:
        module = build(model, tokenizer, attention, tiny=options.tiny)
    steps = Steps(module, batches, options.accumulation)
    wait_for_turn()
    steps.run(1)
    result = measure(steps, options.accumulation, options.device, tiny=options.tiny)
    report({"micro_batch_size": micro, "padding": padding, **result})


if __name__ == "__main__":
    main()
