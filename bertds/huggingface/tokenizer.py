r"""`tokenizer.json` and `tokenizer_config.json`, so that a text becomes the ids it had in training.

Two things stood outside the tokenizer there, and are put into it here: [CLS] and [SEP] around a
sequence, if the shards had them; and what `data_prep` does to a line (control characters go, NFC,
white space becomes single blanks, none at the ends). A blank at an end goes only where the tokenizer
cuts at blanks: others may need the one beside a [MASK], at which the text is cut before it is cleaned.
"""

import json
from typing import Any

from bertds.data.tokenizer import Tokenizer

# As in `data_prep.readers.cleaning`: white space is what Python's `str.split` takes for it.
_CONTROL = "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]"
_WHITE_SPACE = r"[\s\x1c-\x1f]+"


def whole_tokenizer(tokenizer: Tokenizer, *, framed: bool) -> Tokenizer:
    """A tokenizer whose `tokenizer.json` does all that training did to a text.

    Args:
        tokenizer: That of the shards.
        framed: Whether [CLS] and [SEP] stand around every sequence.
    """
    content: dict[str, Any] = json.loads(tokenizer.content)
    content |= {"truncation": None, "padding": None}
    if content["model"].get("dropout"):  # BPE's, which the shards were made without
        content["model"]["dropout"] = None
    content["post_processor"] = _framing(tokenizer) if framed else None
    strips = tokenizer.words_are_independent
    content["normalizer"] = _cleaning(content.get("normalizer"), strips=strips)
    whole = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    return Tokenizer.of(whole.encode(), "the run's tokenizer")


def tokenizer_config(tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """The content of `tokenizer_config.json`.

    Args:
        tokenizer: That of the shards.
        max_length: Tokens of the longest sequence that the model takes.
    """
    names = dict(
        zip(tokenizer.special_ids, tokenizer.tokens([*tokenizer.special_ids.values()]), strict=True)
    )
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": name for role, name in names.items()},
    }


def _framing(tokenizer: Tokenizer) -> dict[str, Any]:
    """[CLS] A [SEP], and [CLS] A [SEP] B [SEP] for a pair."""
    ids = tokenizer.special_ids
    start, end = tokenizer.tokens([ids["cls"], ids["sep"]])

    def special(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    first = [
        special(start, 0),
        {"Sequence": {"id": "A", "type_id": 0}},
        special(end, 0),
    ]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, {"Sequence": {"id": "B", "type_id": 1}}, special(end, 1)],
        "special_tokens": {
            name: {"id": name, "ids": [ids[role]], "tokens": [name]}
            for role, name in (("cls", start), ("sep", end))
        },
    }


def _cleaning(normalizer: dict[str, Any] | None, *, strips: bool) -> dict[str, Any]:
    """What `data_prep` does to a line, then what the tokenizer did."""
    steps = [] if normalizer is None else [normalizer]
    if normalizer is not None and normalizer["type"] == "Sequence":
        steps = normalizer["normalizers"]
    cleaning: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"Regex": _CONTROL}, "content": ""},
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": _WHITE_SPACE}, "content": " "},
    ]
    if strips:
        cleaning.append({"type": "Strip", "strip_left": True, "strip_right": True})
    return {"type": "Sequence", "normalizers": [*cleaning, *steps]}
