"""The tokens that one tokenizer has beyond another, and the old tokens that each of them replaces.

A model that continues with an extended vocabulary starts the embedding of a new token from those of
its old pieces.
"""

import json
from collections.abc import Mapping
from typing import Any

from bertds.data.tokenizer import Tokenizer


def pieces_of_new_tokens(old: Tokenizer, new: Tokenizer) -> list[list[int]]:
    """Encode each new token of an extended tokenizer with the old one.

    Args:
        old: The tokenizer of a model.
        new: A tokenizer with the same tokens, and further ones after them.

    Returns:
        The old ids of each new id, in the order of the new ids, from `old.vocab_size` on.

    Raises:
        ValueError: `new` has another token under an old id, or lacks one; or `old` has no
            unknown token, and needs one for a new token.
    """
    before, after = (each.tokens([*range(old.vocab_size)]) for each in (old, new))
    for number, (old_token, new_token) in enumerate(zip(before, after, strict=True)):
        if old_token != new_token:
            raise ValueError(
                f"the tokenizer has {new_token!r} as token {number}, but the model's has "
                f"{old_token!r}: extend the model's tokenizer, with python -m data_prep tokenizer "
                "--extend TOKENIZER"
            )
    content = json.loads(new.content)
    added = {token["content"] for token in content.get("added_tokens") or []}
    ids, sides = {token: number for number, token in enumerate(before)}, _sides(content["model"])

    def pieces(token: str) -> list[int]:
        if token in ids:
            return [ids[token]]
        if token in sides:
            left, right = sides[token]
            return pieces(left) + pieces(right)
        # A token of the model is spelled as in a word, an added one as in a text.
        return old.encode_batch([token])[0] if token in added else old.pieces(token)

    return [pieces(token) for token in new.tokens([*range(old.vocab_size, new.vocab_size)])]


def _sides(model: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Both sides of the first merge that makes each token; empty except for BPE."""
    prefix = model.get("continuing_subword_prefix") or ""
    sides: dict[str, tuple[str, str]] = {}
    for merge in model.get("merges") or []:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        sides.setdefault(left + right.removeprefix(prefix), (left, right))
    return sides
