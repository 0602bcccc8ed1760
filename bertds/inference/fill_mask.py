"""Predicts the most likely tokens for each [MASK] of a text."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import torch

from bertds.data.packing import MaskedSequences, pack
from bertds.data.white_space import on_one_line
from bertds.errors import ConfigError
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.trained_run import TrainedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskPrediction:
    """One predicted token for one [MASK]."""

    mask: int
    """Index of the [MASK] in the text, from 0."""
    token: str
    probability: float
    text: str
    """The text with this token in place of the [MASK]."""


@torch.no_grad()
def fill(
    trained: TrainedRun, model: MaskedLanguageModel, text: str, top: int
) -> list[MaskPrediction]:
    """Predict the `top` most likely tokens for each [MASK], in fp32 on the CPU.

    Args:
        trained: The run.
        model: Its model, `trained.model()`.
        text: One sequence, tokenized as in training.
        top: Number of predictions per [MASK].

    Raises:
        ConfigError: The text has no [MASK], or is too long for the model.
    """
    tokenizer = trained.tokenizer
    if not 0 < top <= tokenizer.vocab_size:
        raise ConfigError(
            f"--top is {top}, expected 1 to {tokenizer.vocab_size} (the vocabulary size)"
        )
    ids, mask_id = trained.encode(text), tokenizer.special_ids["mask"]
    tokens = np.array(ids)
    positions = np.flatnonzero(tokens == mask_id)
    if positions.size == 0:
        (mask,) = tokenizer.tokens([mask_id])
        raise ConfigError(f"the text {text!r} has no {mask}: put {mask} where a token is missing")
    sequence = MaskedSequences.masked_at(
        positions, tokens=tokens, inputs=tokens, lengths=np.array([len(ids)])
    )
    packed = pack(sequence, row_length=len(ids), pad_id=tokenizer.special_ids["pad"])
    # (masks, V)
    probabilities = model.logits(to_device(torch.device("cpu"), packed)).softmax(-1)
    top_probabilities, top_ids = probabilities.topk(top)
    framing = {tokenizer.special_ids.get(role) for role in ("cls", "sep")}
    predictions = []
    for mask_index, position in enumerate(positions.tolist()):
        for probability, token_id in zip(
            top_probabilities[mask_index].tolist(), top_ids[mask_index].tolist(), strict=True
        ):
            filled = [*ids[:position], token_id, *ids[position + 1 :]]
            prediction = MaskPrediction(
                mask=mask_index,
                token=tokenizer.decode([token_id]),
                probability=probability,
                text=tokenizer.decode([number for number in filled if number not in framing]),
            )
            predictions.append(prediction)
    return predictions


def table(predictions: list[MaskPrediction]) -> str:
    """Format predictions in columns, with a heading per [MASK] if there are several."""
    width = max(_columns(on_one_line(prediction.token)) for prediction in predictions)
    has_headings = predictions[-1].mask > 0
    lines = []
    previous_mask = -1
    for prediction in predictions:
        if has_headings and prediction.mask != previous_mask:
            lines.append(f"[MASK] {prediction.mask + 1}")
        previous_mask = prediction.mask
        token, text = on_one_line(prediction.token), on_one_line(prediction.text)
        padding = " " * (width - _columns(token))
        lines.append(f"{prediction.probability:6.1%}  {token}{padding}  {text}")
    return "\n".join(lines)


def _columns(text: str) -> int:
    """The width of a text on a terminal: wide characters, such as Korean syllables, take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
