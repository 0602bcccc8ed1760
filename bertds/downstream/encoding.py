"""Tokenizes examples for transformers, and aligns tags with tokens.

A tag belongs to a word or a letter, a prediction to a token. The first token that begins in a unit
predicts its tag, in training too. A letter inside a token has the token's tag, as its continuation.
What a maximum length cuts off is predicted as O, so it counts as an error where it is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertds.downstream.examples import Example, TaskData

IGNORED = -100
"""The label of a token that predicts nothing; transformers leaves it out of the loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitPlaces:
    """Where the tags of one example are predicted."""

    tokens: Sequence[int]
    """For each unit the token that predicts it, -1 if it was cut off."""
    continues: Sequence[bool]
    """Whether the unit lies inside a token that began in an earlier unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedExamples:
    """N examples as ids."""

    features: Sequence[dict[str, Any]]
    """(N,) what a collator of transformers takes, with `labels`."""
    examples: Sequence[Example]
    num_cut: int
    """Examples that were longer than the maximum length."""
    places: Sequence[UnitPlaces] = ()
    """(N,) for tokens only."""


def encode(
    data: TaskData, tokenizer: Any, examples: Sequence[Example], max_length: int
) -> EncodedExamples:
    """Tokenize examples, and cut those that are too long: of a pair, the longer text first.

    Args:
        data: The task.
        tokenizer: A fast tokenizer of transformers.
        examples: Some of the task's examples.
        max_length: Tokens of the longest sequence, special tokens included.
    """
    columns = list(zip(*_texts(tokenizer, examples), strict=True))
    is_tagged = data.task.kind == "tokens"
    settings = {"return_offsets_mapping": is_tagged, "verbose": False}
    texts = [list(column) for column in columns]
    whole = tokenizer(*texts, **settings)
    num_cut = sum(len(ids) > max_length for ids in whole["input_ids"])
    if num_cut:
        whole = tokenizer(*texts, **settings, truncation=True, max_length=max_length)
    offsets = whole.pop("offset_mapping", [])
    features = [
        dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)
    ]
    places = [places_of(*pair) for pair in zip(examples, offsets, strict=True)] if is_tagged else []
    for number, (feature, example) in enumerate(zip(features, examples, strict=True)):
        feature["labels"] = (
            _token_labels(example, places[number], len(feature["input_ids"]))
            if is_tagged
            else example.label
        )
    return EncodedExamples(features=features, examples=examples, num_cut=num_cut, places=places)


def _texts(tokenizer: Any, examples: Sequence[Example]) -> list[tuple[str, ...]]:
    """The texts; a pair is joined by [SEP] if the tokenizer itself would put nothing in between."""
    texts = [example.texts for example in examples]
    if len(texts[0]) == 2 and not tokenizer("")["input_ids"]:
        return [(f" {tokenizer.sep_token} ".join(pair),) for pair in texts]
    return texts


def places_of(example: Example, offsets: Sequence[tuple[int, int]]) -> UnitPlaces:
    """Find the token of each unit, from the characters of each token."""
    (text,) = example.texts
    token_of: npt.NDArray[np.int64] = np.full(len(text) + 1, -1)
    is_start = np.zeros(len(text) + 1, dtype=bool)
    for token, (start, stop) in enumerate(offsets):
        # Several tokens may be parts of one letter: the first has it.
        free = [place for place in range(start, stop) if token_of[place] < 0]
        places = [place for place in free if not text[place].isspace()] or free
        token_of[places] = token
        is_start[places[:1]] = True
    tokens, continues = [], []
    for start, stop in example.units:
        starts = np.flatnonzero(is_start[start:stop])
        place = start + int(starts[0]) if starts.size else start
        tokens.append(int(token_of[place]))
        continues.append(not starts.size)
    return UnitPlaces(tokens=tokens, continues=continues)


def _token_labels(example: Example, places: UnitPlaces, size: int) -> list[int]:
    labels = [IGNORED] * size
    assert isinstance(example.label, list)
    for tag, token, continues in zip(example.label, places.tokens, places.continues, strict=True):
        if token >= 0 and not continues:
            labels[token] = tag
    return labels


def unit_tags(
    predicted: npt.NDArray[np.int64], places: UnitPlaces, names: Sequence[str]
) -> list[str]:
    """The predicted tags of an example's units, from the predicted class of each token."""
    tags = []
    for token, continues in zip(places.tokens, places.continues, strict=True):
        tag = names[predicted[token]] if token >= 0 else "O"
        inner = f"I-{tag[2:]}" if continues and tag.startswith("B-") else tag
        tags.append(inner)
    return tags
