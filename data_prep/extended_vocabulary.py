"""Adds tokens to the vocabulary of a `tokenizer.json`, behind all ids that it has.

A text in which no new token applies keeps its ids. How that is done depends on the model:

- WordPiece takes the longest token from the start of a word, then from where it ended. A new token
  changes a word from the place on where it applies.
- BPE applies its merges in order. The new ones come last, so they only join what the old ones leave.
- Unigram takes the pieces with the highest sum of scores. A new token gets the sum of its pieces, and
  a little more for each piece that it saves. So it replaces exactly these pieces.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from bertds.data.special_tokens import Description
from bertds.data.tokenizer import Tokenizer
from data_prep.new_tokens import Run, Words, merged_runs, word_beginnings

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BONUS = 1e-4
"""Of a Unigram score, for each piece saved: more than rounding in 32 bits, and far below a score."""


def extended(tokenizer: Tokenizer, words: Mapping[str, int], limit: int) -> Tokenizer:
    """Extend a tokenizer by at most `limit` tokens.

    Args:
        tokenizer: The tokenizer.
        words: Occurrences of the words of a text, spelled as by `Tokenizer.words`.
        limit: Most new tokens.

    Raises:
        ValueError: Its model is of another kind, or no token would occur twice.
    """
    kinds: dict[str, Callable[[Tokenizer, Description, Words, int], Description]] = {
        "WordPiece": _extend_wordpiece,
        "BPE": _extend_bpe,
        "Unigram": _extend_unigram,
    }
    if tokenizer.model_type not in kinds:
        known = ", ".join(kinds)
        raise ValueError(
            f"the tokenizer's model is {tokenizer.model_type}, expected one of {known}"
        )
    if len(tokenizer.words("a b")) < 2:
        raise ValueError(
            "the tokenizer does not split a text into words, so that no word of the text can become "
            "a token: expected one with a pre-tokenizer"
        )
    content = json.loads(tokenizer.content)
    own = content | {"model": _with_added_tokens(tokenizer, content)}
    description = kinds[tokenizer.model_type](tokenizer, own, _runs(tokenizer, words), limit)
    new = _tokenizer(description)
    if new.vocab_size == tokenizer.vocab_size:
        raise ValueError(
            "no word of the text that the tokenizer splits into pieces occurs twice: give more text"
        )
    ids = [*range(tokenizer.vocab_size)]
    if tokenizer.tokens(ids) != new.tokens(ids):
        raise ValueError("the tokenizer's ids would change: it cannot be extended")
    return new


def no_words(tokenizer: Tokenizer) -> set[str]:
    """The tokens that no word of a text yields: special and added ones."""
    added = json.loads(tokenizer.content).get("added_tokens") or []
    special = tokenizer.tokens([*tokenizer.unmaskable_ids])
    return {*special, *(token["content"] for token in added)}


def _tokenizer(description: Description) -> Tokenizer:
    content = json.dumps(description, ensure_ascii=False, indent=2) + "\n"
    return Tokenizer.of(content.encode(), "the extended tokenizer")


def _with_added_tokens(tokenizer: Tokenizer, description: Description) -> dict[str, Any]:
    """The model with all tokens that the file lists beside it.

    The library numbers such tokens after those of the model, so new ones would shift them.
    """
    model = description["model"]
    known = {entry[0] for entry in model["vocab"]} if _is_list(model) else model["vocab"].keys()
    beside = [
        token for token in description.get("added_tokens") or [] if token["content"] not in known
    ]
    for token in beside:
        if token.get("single_word") and not token["special"]:
            raise ValueError(
                f"the tokenizer has the added token {token['content']!r} for single words only, "
                "which cannot be kept: remove it"
            )
    names = [token["content"] for token in sorted(beside, key=lambda token: token["id"])]
    if not _is_list(model):
        ids = {token["content"]: token["id"] for token in beside}
        return {**model, "vocab": model["vocab"] | ids}
    if len(model["vocab"]) + len(names) != tokenizer.vocab_size:
        raise ValueError("the tokenizer's ids have gaps: it cannot be extended")
    lowest = min(score for _, score in model["vocab"])
    return {**model, "vocab": [*model["vocab"], *([name, lowest] for name in names)]}


def _is_list(model: Mapping[str, Any]) -> bool:
    """Whether the vocabulary is a list of tokens with scores, whose places are the ids (Unigram)."""
    return isinstance(model["vocab"], list)


def _runs(tokenizer: Tokenizer, words: Mapping[str, int]) -> Words:
    """The runs of at least two pieces that new tokens may join, with their occurrences.

    Special tokens, the unknown token and the bytes of an unknown character stay alone.
    """
    tokens = tokenizer.tokens([*range(tokenizer.vocab_size)])
    falls_back = json.loads(tokenizer.content)["model"].get("byte_fallback")
    alone = {number for number, token in enumerate(tokens) if falls_back and _BYTE.fullmatch(token)}
    alone.update(tokenizer.unmaskable_ids)
    runs: Counter[Run] = Counter()
    for word, count in words.items():
        run: list[int] = []
        for piece in [*tokenizer.pieces(word), None]:
            if piece is not None and piece not in alone:
                run.append(piece)
                continue
            if len(run) > 1:
                runs[tuple(run)] += count
            run = []
    return runs


def _extend_wordpiece(
    tokenizer: Tokenizer, description: Description, runs: Words, limit: int
) -> Description:
    """Take beginnings of words, or runs anywhere in words: whichever leaves fewer pieces.

    The former suit a text of many known words, and the latter one that is spelled letter by letter.
    """
    model = description["model"]
    prefix = model.get("continuing_subword_prefix", "##")
    tokens = tokenizer.tokens([*range(tokenizer.vocab_size)])
    letters = _missing_letters(tokenizer, tokens, prefix)
    if len(letters) >= limit:
        raise ValueError(
            f"its vocabulary has {len(letters):,} letters only inside longer pieces, which become "
            f"tokens first: set --add to more than {len(letters):,}"
        )

    def spell(run: Run) -> str:
        return tokens[run[0]] + "".join(tokens[piece].removeprefix(prefix) for piece in run[1:])

    def with_runs(added: Iterable[Run]) -> Description:
        vocab = _appended(tokenizer, model["vocab"], [*letters, *map(spell, added)])
        return description | {"model": {**model, "vocab": vocab}}

    def length(choice: Description) -> int:
        new = _tokenizer(choice)
        return sum(count * len(new.pieces(spell(run))) for run, count in runs.items())

    limit -= len(letters)
    choices = word_beginnings(runs, limit), _useful(runs, limit, {*tokens}, spell, with_runs)
    return min(map(with_runs, choices), key=length)


def _missing_letters(tokenizer: Tokenizer, tokens: Sequence[str], prefix: str) -> list[str]:
    """Pieces for letters that the vocabulary has only inside longer pieces.

    A new token may end before such a letter, and the word would be unknown without its piece.
    """
    names = no_words(tokenizer)
    words = {token.removeprefix(prefix) for token in tokens if token not in names}
    letters = {letter for word in words for letter in word[1:] if tokenizer.words(word) == [word]}
    return sorted({prefix + letter for letter in letters} - {*tokens})


def _extend_bpe(
    tokenizer: Tokenizer, description: Description, runs: Words, limit: int
) -> Description:
    model = description["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    tokens = tokenizer.tokens([*range(tokenizer.vocab_size)])
    spelled: dict[Run, str] = {(piece,): tokens[piece] for run in runs for piece in run}
    new: dict[str, None] = {}
    merges: list[tuple[str, str]] = []
    for left, right in merged_runs(runs, limit):
        if left not in spelled or right not in spelled:
            continue  # of a merge that was left out
        token = spelled[left] + spelled[right].removeprefix(prefix)
        if token not in model["vocab"]:  # or a text without new tokens would change
            merges.append((spelled[left], spelled[right]))
            spelled[left + right] = token
            new[token] = None
    has_pairs = not model["merges"] or isinstance(model["merges"][0], list)
    lines = [[*merge] if has_pairs else " ".join(merge) for merge in merges]
    vocab = _appended(tokenizer, model["vocab"], new)
    return description | {"model": {**model, "vocab": vocab, "merges": model["merges"] + lines}}


def _extend_unigram(
    tokenizer: Tokenizer, description: Description, runs: Words, limit: int
) -> Description:
    model = description["model"]
    tokens = tokenizer.tokens([*range(tokenizer.vocab_size)])
    scores = [score for _, score in model["vocab"]]

    def spell(run: Run) -> str:
        return "".join(tokens[piece] for piece in run)

    def with_runs(added: Iterable[Run]) -> Description:
        new = {
            spell(run): sum(scores[piece] for piece in run) + _BONUS * (len(run) - 1)
            for run in added
        }
        vocab = [*model["vocab"], *([token, score] for token, score in new.items())]
        return description | {"model": {**model, "vocab": vocab}}

    return with_runs(_useful(runs, limit, {*tokens}, spell, with_runs))


def _useful(
    runs: Words,
    limit: int,
    known: Collection[str],
    spell: Callable[[Run], str],
    with_runs: Callable[[Iterable[Run]], Description],
) -> list[Run]:
    """The first merged runs that the words are encoded with.

    Some merges serve longer ones only. More of them are asked for, until `limit` runs are in use.
    """
    asked = limit
    while True:
        asked += asked // 2 + 1
        merged = dict.fromkeys(left + right for left, right in merged_runs(runs, asked))
        named: dict[str, Run] = {}
        for run in merged:
            if spell(run) not in known:
                named.setdefault(spell(run), run)
        new = _tokenizer(with_runs(named.values()))
        used = {*new.tokens([*{piece for run in runs for piece in new.pieces(spell(run))}])}
        useful = [run for name, run in named.items() if name in used]
        if len(useful) >= limit or len(merged) < asked:
            return useful[:limit]


def _appended(tokenizer: Tokenizer, vocab: Mapping[str, int], new: Iterable[str]) -> dict[str, int]:
    """A vocabulary with new tokens after the last id."""
    return {**vocab, **{token: number for number, token in enumerate(new, tokenizer.vocab_size)}}
