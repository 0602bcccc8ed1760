"""Pseudo-perplexity and bits per character of a text (Salazar et al., 2020).

Each token is masked alone and predicted from all others of its sequence. So a sequence of L tokens
becomes L sequences, which are packed without padding. Longer lines than the model takes are cut into
several sequences. Nothing is dropped: what is cut, empty or unknown is counted.
"""

import gzip
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from bertds.data.packing import Int64s, MaskedSequences, pack
from bertds.data.text import clean_text
from bertds.data.tokenizer import Tokenizer
from bertds.distributed.malloc import keep_freed_memory
from bertds.errors import ConfigError
from bertds.huggingface.tokenizer import standalone_tokenizer
from bertds.inference.hf_model import read_hf_model
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.trained_run import TrainedRun

_PACK_TOKENS = 8192


@dataclass(kw_only=True, slots=True)
class PseudoPerplexity:
    """Sums over a text."""

    nats: float = 0.0
    tokens: int = 0
    """Tokens that were predicted."""
    unknown: int = 0
    """Unknown tokens, which are not predicted."""
    characters: int = 0
    lines: int = 0
    empty_lines: int = 0
    cut_lines: int = 0
    """Lines that became several sequences."""

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss of a token."""
        return math.exp(min(self.nats / self.tokens, 700.0))

    @property
    def bits_per_character(self) -> float:
        """The loss of all tokens in bits, by the characters of the clean text."""
        return self.nats / math.log(2) / self.characters

    def table(self) -> str:
        """All figures, one on a line."""
        figures = {
            "pseudo-perplexity": f"{self.perplexity:.4f}",
            "bits per character": f"{self.bits_per_character:.4f}",
            "tokens": f"{self.tokens:,}",
            "unknown tokens, not scored": f"{self.unknown:,}",
            "characters": f"{self.characters:,}",
            "lines": f"{self.lines:,}",
            "empty lines, skipped": f"{self.empty_lines:,}",
            "long lines, cut into several sequences": f"{self.cut_lines:,}",
        }
        width = max(map(len, figures))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in figures.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A model, and how texts become its sequences."""

    model: MaskedLanguageModel
    tokenizer: Tokenizer
    framing: tuple[list[int], list[int]]
    """What stands before and after a text: [CLS] and [SEP], or nothing."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def score(self, lines: Sequence[str]) -> PseudoPerplexity:
        """Sum the loss of each token of each line.

        Raises:
            ConfigError: The lines have no tokens to predict.
        """
        result = PseudoPerplexity(lines=len(lines))
        bar = tqdm(lines, unit="line", disable=None)
        copies = itertools.chain.from_iterable(
            self._masked_copies(ids) for line in bar for ids in self._sequences(line, result)
        )
        for batch in _batches(copies):
            result.nats += self._nats(batch)
        if not result.tokens:
            raise ConfigError(f"the text has no tokens to predict ({result.lines} lines)")
        return result

    def _sequences(self, line: str, result: PseudoPerplexity) -> list[Int64s]:
        """The ids of a line, as one or several sequences; adds its counts to the result."""
        text = clean_text(line, keep_white_space=self.tokenizer.keeps_white_space)
        (ids,) = self.tokenizer.encode_batch([text])
        first, last = self.framing
        room = self.model.config.max_position_embeddings - len(first) - len(last)
        unknown = sum(number in self.tokenizer.unmaskable_ids for number in ids)
        result.characters += len(text)
        result.empty_lines += not ids
        result.cut_lines += len(ids) > room
        result.unknown += unknown
        result.tokens += len(ids) - unknown
        parts = [ids[start : start + room] for start in range(0, len(ids), room)]
        return [np.array([*first, *part, *last], dtype=np.int64) for part in parts]

    def _masked_copies(self, ids: Int64s) -> Iterator[MaskedSequences]:
        """Copies of a sequence, each with another token masked, in groups of limited size."""
        places = np.flatnonzero(~np.isin(ids, self.tokenizer.unmaskable_ids))
        for group in np.array_split(
            places, max(1, math.ceil(places.size * ids.size / _PACK_TOKENS))
        ):
            tokens = np.tile(ids, group.size)
            masked = np.arange(group.size) * ids.size + group
            inputs = tokens.copy()
            inputs[masked] = self.tokenizer.special_ids["mask"]
            lengths = np.full(group.size, ids.size)
            yield MaskedSequences.masked_at(masked, tokens=tokens, inputs=inputs, lengths=lengths)

    @torch.no_grad()
    def _nats(self, sequences: MaskedSequences) -> float:
        longest, pad_id = int(sequences.lengths.max()), self.tokenizer.special_ids["pad"]
        batch = to_device(self.device, pack(sequences, row_length=longest, pad_id=pad_id))
        logits = self.model.logits(batch)
        return float(F.cross_entropy(logits.double(), batch.labels_M, reduction="sum"))


def _batches(parts: Iterable[MaskedSequences]) -> Iterator[MaskedSequences]:
    """Join groups of sequences to batches of about `_PACK_TOKENS` tokens."""
    held: list[MaskedSequences] = []
    for part in parts:
        if not part.lengths.size:
            continue
        if held and sum(each.tokens.size for each in held) + part.tokens.size > _PACK_TOKENS:
            yield MaskedSequences.concatenate(held)
            held = []
        held.append(part)
    if held:
        yield MaskedSequences.concatenate(held)


def open_probe(path: Path, checkpoint: str) -> Probe:
    """Read a run or a Hugging Face directory; on a GPU if there is one, in fp32.

    Raises:
        ValueError: It is neither, or has no head for masked tokens.
    """
    if (path / "config.json").is_file():
        tokenizer = marked = Tokenizer.load(path)
        model = read_hf_model(path, tokenizer)
    else:
        trained = TrainedRun.open(path, checkpoint)
        tokenizer, model = trained.tokenizer, trained.model()
        marked = standalone_tokenizer(
            tokenizer, add_special_tokens=trained.metadata["special_tokens"]
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    around = marked.encode_marked("")
    return Probe(
        model=model.to(device),
        tokenizer=tokenizer,
        framing=(around[:1], around[1:]),
        device=device,
    )


def read_lines(path: Path, limit: int | None) -> list[str]:
    """The lines of a text file, all or the first `limit`.

    Raises:
        ConfigError: It is not UTF-8, or is empty.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\n") for line in itertools.islice(file, limit)]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not lines:
        raise ConfigError(f"{path} is empty: expected a line of text for each sequence")
    return lines
