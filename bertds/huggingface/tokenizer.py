r"""Builds a tokenizer for transformers that gives a text the same ids as in training.

`data_prep` does two things outside the tokenizer, and the exported tokenizer does them as well:

- It adds [CLS] and [SEP] around a sequence, if the shards have them. The two texts of a pair are
  separated as the tokenizer.json says, or else as the model's class does.
- It cleans each line: it removes control characters, normalizes to NFC, replaces white space by
  single blanks (unless the tokenizer keeps white space), and strips both ends. The exported tokenizer strips only if it splits words at
  blanks. Other tokenizers may need the blank beside [MASK], where transformers splits a text before
  cleaning it.
"""

import json
from typing import Any

from bertds.config.schema import ModelConfig
from bertds.data.tokenizer import Tokenizer
from bertds.data.white_space import normalizer_steps

# The same as in `bertds.data.text`: white space is what Python's `str.split` splits at.
_CONTROL = "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]"
_WHITE_SPACE = r"[\s\x1c-\x1f]+"
_LINE_END = "\x1e"  # in documents of containers


def standalone_tokenizer(
    tokenizer: Tokenizer, *, add_special_tokens: bool, pair_separators: int = 1
) -> Tokenizer:
    """A tokenizer that includes everything `data_prep` does to a text.

    Args:
        tokenizer: The tokenizer of the shards.
        add_special_tokens: Whether every sequence starts with [CLS] and ends with [SEP].
        pair_separators: Number of [SEP] between the two texts of a pair, unless the tokenizer.json
            itself puts [CLS] and [SEP] around a text: then its pairs are kept.
    """
    content: dict[str, Any] = json.loads(tokenizer.content)
    content |= {"truncation": None, "padding": None}
    if content["model"].get("dropout"):  # BPE dropout, which sharding ignores
        content["model"]["dropout"] = None
    if not add_special_tokens:
        content["post_processor"] = None
    elif not _adds_cls_and_sep(tokenizer):
        content["post_processor"] = _post_processor(tokenizer, pair_separators)
    steps = [*_cleaning(tokenizer), *normalizer_steps(content)]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    return Tokenizer.of(text.encode(), "the run's tokenizer")


def _cleaning(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """What text cleaning does to a line, as steps of a normalizer."""
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"Regex": _CONTROL}, "content": ""},
        {"type": "NFC"},
    ]
    if tokenizer.keeps_white_space:
        return [*steps, {"type": "Replace", "pattern": {"String": _LINE_END}, "content": "\n"}]
    steps.append({"type": "Replace", "pattern": {"Regex": _WHITE_SPACE}, "content": " "})
    if tokenizer.words_are_independent:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
    return steps


def tokenizer_config(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, Any]:
    """The content of `tokenizer_config.json`.

    Args:
        tokenizer: The tokenizer of the shards.
        config: The model, which says how long a sequence may be, and whether it has token types.
    """
    names = dict(
        zip(tokenizer.special_ids, tokenizer.tokens([*tokenizer.special_ids.values()]), strict=True)
    )
    types = ["token_type_ids"] if config.type_vocab_size > 1 else []
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_position_embeddings,
        "model_input_names": ["input_ids", *types, "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": name for role, name in names.items()},
    }


def _adds_cls_and_sep(tokenizer: Tokenizer) -> bool:
    """Whether the file's own post-processor puts [CLS] and [SEP] around a text."""
    return tokenizer.encode_marked("") == [tokenizer.special_ids[role] for role in ("cls", "sep")]


def _post_processor(tokenizer: Tokenizer, pair_separators: int) -> dict[str, Any]:
    """[CLS] A [SEP], and [CLS] A [SEP] B [SEP] for a pair, with one or two [SEP] in between."""
    ids = tokenizer.special_ids
    cls_token, sep_token = tokenizer.tokens([ids["cls"], ids["sep"]])

    def special(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    second = 1 if pair_separators == 1 else 0  # RoBERTa has one token type
    single = [
        special(cls_token, 0),
        {"Sequence": {"id": "A", "type_id": 0}},
        special(sep_token, 0),
    ]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [
            *single,
            *[special(sep_token, 0)] * (pair_separators - 1),
            {"Sequence": {"id": "B", "type_id": second}},
            special(sep_token, second),
        ],
        "special_tokens": {
            name: {"id": name, "ids": [ids[role]], "tokens": [name]}
            for role, name in (("cls", cls_token), ("sep", sep_token))
        },
    }
