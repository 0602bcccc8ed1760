"""Sample predictions for TensorBoard: a few validation sequences and the model's top tokens.

The sequences and their masks are the same at every validation. Each takes one forward pass, in
which all ranks take part, because under ZeRO-3 each rank holds only a shard of the weights.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import PackedBatch, RankBatchSpec
from bertds.data.tokenizer import Tokenizer
from bertds.data.validation import STATIC_COPY

__all__ = ["SamplePredictions"]
NUM_SAMPLES = 4
TOP_K = 5
MAX_TOKENS = 64
"""Tokens shown of a longer sequence."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """One sequence, packed alone and followed by padding."""

    tag: str
    pack: PackedBatch


class SamplePredictions:
    """The first sequences of every validation set, with their predictions as Markdown."""

    def __init__(
        self, sets: Mapping[str, MaskedDataset], spec: RankBatchSpec, tokenizer: Path
    ) -> None:
        """Read the first block of each set.

        Args:
            sets: Validation sets by name.
            spec: Layout of the packed batches.
            tokenizer: The tokenizer file.

        Raises:
            ShardError: A block is damaged.
        """
        self._tokenizer_path = tokenizer
        self._samples: list[_Sample] = []
        samples_per_set = max(1, NUM_SAMPLES // max(1, len(sets)))
        for name, dataset in sets.items():
            block = dataset.read(0, STATIC_COPY)
            count = min(samples_per_set, block.lengths.size, dataset.subset.num_sequences)
            for index in range(count):
                pack = spec.pack(block.cut(index, index + 1))
                self._samples.append(_Sample(f"examples/{name} {index + 1}", pack))

    @property
    def packs(self) -> list[PackedBatch]:
        """One packed batch per sample, the same on every rank."""
        return [sample.pack for sample in self._samples]

    def as_markdown(self, logits: Sequence[Tensor]) -> dict[str, str]:
        """Each sample as Markdown by tag: the input, the true tokens, and the most likely tokens.

        Args:
            logits: (M, V) of each of the packs.
        """
        return {
            sample.tag: self._sample_as_markdown(sample.pack, sample_logits)
            for sample, sample_logits in zip(self._samples, logits, strict=True)
        }

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self._tokenizer_path)

    def _sample_as_markdown(self, pack: PackedBatch, logits: Tensor) -> str:
        length = min(MAX_TOKENS, pack.num_tokens)
        masked = pack.masked[pack.masked < length]
        words = self._names(pack.inputs[:length].tolist())
        for position in masked.tolist():
            words[position] = f"**{words[position]}**"
        if length < pack.num_tokens:
            words.append("…")
        probabilities = logits.float().softmax(-1)[: len(masked)]
        top = probabilities.topk(min(TOP_K, logits.shape[-1]))
        rows = ["| truth | most likely |", "|---|---|"]
        for label, top_probabilities, top_ids in zip(
            self._names(pack.labels[: len(masked)].tolist()),
            top.values.tolist(),
            top.indices.tolist(),
            strict=True,
        ):
            predictions = [
                f"**{name}** {probability:.1%}" if name == label else f"{name} {probability:.1%}"
                for name, probability in zip(self._names(top_ids), top_probabilities, strict=True)
            ]
            rows.append(f"| **{label}** | {', '.join(predictions)} |")
        return " ".join(words) + "\n\n" + "\n".join(rows)

    def _names(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary spells them, escaped for Markdown."""
        names = self._tokenizer.tokens(list(ids))
        return [re.sub(r"([\\`*_{}\[\]()#+.!|~-])", r"\\\1", html.escape(name)) for name in names]
