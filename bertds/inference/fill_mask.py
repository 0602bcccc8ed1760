"""The most likely tokens for each [MASK] of a text, by a run's model, read as in training."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import torch

from bertds.data.packing import Int64s, MaskedSequences, pack
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ConfigError
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.trained_run import TrainedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskPrediction:
    """One token for one [MASK]."""

    mask: int
    """Which [MASK] of the text, from 0."""
    token: str
    probability: float
    text: str
    """The text with this token in its place."""


def fill(
    trained: TrainedRun, model: MaskedLanguageModel, text: str, top: int
) -> list[MaskPrediction]:
    """The `top` most likely tokens for each [MASK], in fp32 on the CPU.

    Args:
        trained: The run.
        model: Its model, `trained.model()`.
        text: One sequence.
        top: How many.

    Raises:
        ConfigError: The text has no [MASK], or is too long for the model.
    """
    tokenizer = trained.tokenizer
    if not 0 < top <= tokenizer.vocab_size:
        raise ConfigError(f"--top is {top}, wanted is 1 to {tokenizer.vocab_size}, the vocabulary")
    ids, masked = _encode(trained, text)
    likely = _probabilities(model, ids, masked, tokenizer.special_ids["pad"]).topk(top)
    return [
        MaskPrediction(
            mask=number,
            token=tokenizer.decode([token]),
            probability=probability,
            text=_readable(tokenizer, [*ids[:place], token, *ids[place + 1 :]]),
        )
        for number, place in enumerate(masked.tolist())
        for probability, token in zip(
            likely.values[number].tolist(), likely.indices[number].tolist(), strict=True
        )
    ]


def _encode(trained: TrainedRun, text: str) -> tuple[list[int], Int64s]:
    """A text's ids, and the places of [MASK] among them."""
    ids, mask_id = trained.encode(text), trained.tokenizer.special_ids["mask"]
    masked = np.flatnonzero(np.array(ids) == mask_id)
    if masked.size == 0:
        (mask,) = trained.tokenizer.tokens([mask_id])
        raise ConfigError(f"the text {text!r} has no {mask}: write it where a token is to be found")
    return ids, masked


@torch.no_grad()
def _probabilities(
    model: MaskedLanguageModel, ids: list[int], masked: Int64s, pad_id: int
) -> torch.Tensor:
    """(masks, vocabulary), each row adds up to 1."""
    tokens = np.array(ids)
    sequence = MaskedSequences.masked_at(
        masked, tokens=tokens, inputs=tokens, lengths=np.array([len(ids)])
    )
    one = pack(sequence, row_length=len(ids), pad_id=pad_id)
    return model.logits(to_device(torch.device("cpu"), one)).softmax(-1)


def _readable(tokenizer: Tokenizer, ids: list[int]) -> str:
    framing = {tokenizer.special_ids.get(role) for role in ("cls", "sep")}
    return tokenizer.decode([number for number in ids if number not in framing])


def table(guesses: list[MaskPrediction]) -> str:
    """The guesses in columns, a heading for each [MASK] of several."""
    width = max(_columns(guess.token) for guess in guesses)
    several = guesses[-1].mask > 0
    lines = []
    for number, guess in enumerate(guesses):
        if several and (number == 0 or guesses[number - 1].mask != guess.mask):
            lines.append(f"[MASK] {guess.mask + 1}")
        padding = " " * (width - _columns(guess.token))
        lines.append(f"{guess.probability:6.1%}  {guess.token}{padding}  {guess.text}")
    return "\n".join(lines)


def _columns(text: str) -> int:
    """The columns that a terminal takes for a text: two for most Korean letters."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
