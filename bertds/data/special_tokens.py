"""Special tokens that text must not spell: `<s>` in a line of text is text, not the token.

The tokenizers library extracts a special token from text, unless it is told not to. Its models can
still emit one: a Unigram model has `<s>` among its pieces, and WordLevel and WordPiece among their
words. Here the tokens get another spelling, one that no text has, in the model and in the added
tokens. Their ids stay the same, and the model encodes `<s>` from the other pieces that it knows.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bertds.io.json_files import read_json_object

_UNSPELLABLE = "\0"  # text cleaning removes it, so no text contains it
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
_MAX_BYTES = 64 << 20  # of a settings file

Description = dict[str, Any]
"""The content of a tokenizer.json."""


def with_unspellable(description: Description, names: Collection[str]) -> Description:
    """A tokenizer with the same ids, in which no text spells the tokens `names`."""
    spelling = {name: _UNSPELLABLE + name for name in names}
    # Not normalized: a normalizer that removes control characters would restore the name.
    added = [
        {**token, "content": spelling[token["content"]], "normalized": False}
        if token["content"] in spelling
        else token
        for token in description.get("added_tokens") or []
    ]
    return {
        **description,
        "added_tokens": added,
        "model": _rename(description["model"], spelling),
    }


def with_special(description: Description, token_id: int, name: str) -> Description:
    """A tokenizer that extracts the token `name` from text, however the file declares it."""
    added = [*(description.get("added_tokens") or [])]
    defaults = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"id": token_id, "content": name, **defaults}
    for number, other in enumerate(added):
        if other["content"] == name:
            token |= added.pop(number)
            break
    added.append({**token, "special": True})
    return {**description, "added_tokens": sorted(added, key=lambda each: each["id"])}


def declared_beside(path: Path) -> list[str]:
    """The special tokens that the settings of transformers beside a tokenizer.json name.

    Raises:
        ValueError: A file of settings is not a JSON object.
    """
    names: list[str] = []
    for file in [path.with_name(name) for name in _SETTINGS]:
        if file.is_file():
            remedy = f"restore it, or move it away from {path.name}"
            settings = read_json_object(file, max_bytes=_MAX_BYTES, remedy=remedy)
            names += _special_names(settings)
    return list(dict.fromkeys(names))


def _special_names(settings: Mapping[str, Any]) -> list[str]:
    """The values of `cls_token` and the like, and of the lists of further special tokens."""
    values: list[Any] = []
    for key, value in settings.items():
        if key in ("additional_special_tokens", "extra_special_tokens"):
            values += value.values() if isinstance(value, dict) else value or []
        elif key.endswith("_token"):
            values.append(value)
    names = [value.get("content") if isinstance(value, dict) else value for value in values]
    return [name for name in names if isinstance(name, str) and name]


def _rename(model: Mapping[str, Any], spelling: Mapping[str, str]) -> dict[str, Any]:
    """A model in which tokens have another spelling."""
    vocab = model["vocab"]
    renamed = {**model}
    if isinstance(vocab, dict):
        renamed["vocab"] = {spelling.get(token, token): number for token, number in vocab.items()}
    else:  # Unigram: pieces with their scores
        renamed["vocab"] = [[spelling.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in spelling:
        renamed["unk_token"] = spelling[model["unk_token"]]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = [_pair(merge) for merge in model["merges"]]
        renamed["merges"] = [
            [left, right]
            for left, right in pairs
            if spelling.keys().isdisjoint((left, right, left + right[prefix:]))
        ]
    return renamed


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Both sides of a merge; older files join them with a blank."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
