"""A few validation sequences, always the same, and what the model makes of their masks.

They are read once, with the masks of every validation; each costs a forward pass without gradient
a validation, in which all processes take part since under ZeRO-3 each holds a piece of the weights.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import Int64s, PackedBatch, RankBatchSpec
from bertds.data.tokenizer import Tokenizer

__all__ = ["SamplePredictions"]
NUM_EXAMPLES = 4
NUM_GUESSES = 5


# A page of text says no more than its beginning.
MOST_TOKENS = 64


@dataclass(frozen=True, slots=True)
class _Example:
    """A sequence on its own; filler follows it in the pack."""

    name: str
    pack: PackedBatch

    @property
    def length(self) -> int:
        """Tokens to show."""
        return min(MOST_TOKENS, self.pack.num_tokens)


class SamplePredictions:
    """The first sequences of every validation set."""

    def __init__(
        self, sets: Mapping[str, MaskedDataset], share: RankBatchSpec, tokenizer: Path
    ) -> None:
        """Reads a block of each set.

        Args:
            sets: Validation sets by name.
            share: How a pack is laid out.
            tokenizer: The file that says how tokens are spelled.

        Raises:
            ShardError: The block is damaged.
        """
        self._path = tokenizer
        each = max(1, NUM_EXAMPLES // max(1, len(sets)))
        self._examples = [
            _Example(f"examples/{name} {number + 1}", pack)
            for name, one in sets.items()
            for number, pack in enumerate(_first(one, share, each))
        ]

    @property
    def packs(self) -> list[PackedBatch]:
        """One for each example, the same in every process."""
        return [one.pack for one in self._examples]

    def as_markdown(self, logits: Sequence[Tensor]) -> dict[str, str]:
        """Each example as Markdown: the input, the truth, and the most likely tokens.

        Args:
            logits: (M, V) of each of the packs.
        """
        pairs = zip(self._examples, logits, strict=True)
        return {one.name: self._as_markdown(one, scores) for one, scores in pairs}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self._path)

    def _as_markdown(self, example: _Example, logits: Tensor) -> str:
        pack = example.pack
        shown = pack.masked[pack.masked < example.length]
        likely = logits.float().softmax(-1)[: len(shown)].topk(min(NUM_GUESSES, logits.shape[-1]))
        rows = ["| truth | most likely |", "|---|---|"]
        for label, shares, ids in zip(
            self._names(pack.labels[: len(shown)].tolist()),
            likely.values.tolist(),
            likely.indices.tolist(),
            strict=True,
        ):
            guesses = [
                f"**{name}** {share:.1%}" if name == label else f"{name} {share:.1%}"
                for name, share in zip(self._names(ids), shares, strict=True)
            ]
            rows.append(f"| **{label}** | {', '.join(guesses)} |")
        return f"{self._text(example, shown)}\n\n" + "\n".join(rows)

    def _text(self, example: _Example, shown: Int64s) -> str:
        """What the model was given, what it must predict in bold."""
        words = self._names(example.pack.inputs[: example.length].tolist())
        for place in shown.tolist():
            words[place] = f"**{words[place]}**"
        more = " …" if example.length < example.pack.num_tokens else ""
        return " ".join(words) + more

    def _names(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary spells them, none of them markup."""
        names = self._tokenizer.tokens(list(ids))
        return [re.sub(r"([\\`*_{}\[\]()#+.!|~-])", r"\\\1", html.escape(name)) for name in names]


def _first(masked_set: MaskedDataset, share: RankBatchSpec, count: int) -> Iterator[PackedBatch]:
    rows = masked_set.read(0, 0)
    for number in range(min(count, rows.lengths.size, masked_set.subset.num_sequences)):
        yield share.pack(rows.cut(number, number + 1))
