"""A BPE vocabulary of so many merges, as a Hugging Face `tokenizer.json`.

    text --clean, NFC, lower case--> words `▁like ▁these` --BPE--> specials, characters, N merges

Ids 0 to 4 are `[PAD] [UNK] [CLS] [SEP] [MASK]`, then the characters seen at least `min_count`
times in order of code point, then the merges in the order in which they were found, so the first
M merges of a vocabulary are the vocabulary of M merges. A rarer character ends a word while
merges are counted: leaving it out would put its neighbours side by side, and merge what never
stood together. The text is read twice and not kept; a minute for 80 MB and 50,000 merges.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm

from bertds.io.atomic import atomic_write
from data_prep.output.manifest import is_up_to_date, write_manifest
from data_prep.readers.cleaning import clean_lines, no_text
from data_prep.readers.sources import Inputs, Source, open_sources
from data_prep.readers.text import read_chunks

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORD_MARK = "▁"
FORMAT = 1  # raised when the same text would give another vocabulary
MIN_PAIR_COUNT = 2  # a pair seen once is no regularity
_SPECIAL = re.compile("|".join(map(re.escape, SPECIALS)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What was learned: the characters, and the merges in order."""

    characters: list[str]
    merges: list[tuple[str, str]]

    def tokens(self, num_merges: int) -> tuple[list[str], list[tuple[str, str]]]:
        """The vocabulary of `num_merges` merged tokens, and the merges that make them.

        Two merges may make the same token (`a` `aa` and `aa` `a`); it counts once.

        Raises:
            ValueError: There are fewer.
        """
        tokens = dict.fromkeys([*SPECIALS, *self.characters])
        wanted = len(tokens) + num_merges
        merges: list[tuple[str, str]] = []
        for merge in self.merges:
            if len(tokens) == wanted:
                break
            tokens["".join(merge)] = None
            merges.append(merge)
        if len(tokens) < wanted:
            found = num_merges - wanted + len(tokens)
            raise ValueError(
                f"the text has {found:,} merges, {num_merges:,} are wanted: ask for at most "
                f"{found:,}, or give more text"
            )
        return list(tokens), merges


def make_tokenizer(
    inputs: Inputs | str, num_merges: int, path: Path, lowercase: bool, min_count: int
) -> None:
    """Train and write a tokenizer.json; a finished one is kept.

    Raises:
        ValueError: The text has too few merges; nothing is written.
        FileExistsError: The path holds another file.
    """
    made = path.with_name(f"{path.stem}.made.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_sources(inputs, path.parent) as sources:
        recipe = recipe_of(sources, num_merges, lowercase, min_count)
        if is_up_to_date(made, [path], recipe):
            print(f"{path}: finished already, nothing to do")
            return
        vocabulary = learn(sources, num_merges, lowercase, min_count)
        content = build(vocabulary, num_merges, lowercase)
        num_characters = len(vocabulary.characters)
        write_manifest(made, recipe, {"characters": num_characters})
        write(path, content)
    print(
        f"{path}: {len(SPECIALS)} special tokens, {num_characters:,} characters, "
        f"{num_merges:,} merges: {len(SPECIALS) + num_characters + num_merges:,} ids"
    )


def recipe_of(
    sources: list[Source], num_merges: int, lowercase: bool, min_count: int
) -> dict[str, Any]:
    """All that a tokenizer's bytes depend on."""
    return {
        "format": FORMAT,
        "merges": num_merges,
        "lowercase": lowercase,
        "min_count": min_count,
        "sources": [source.identity for source in sources],
    }


def learn(sources: list[Source], num_merges: int, lowercase: bool, min_count: int) -> Vocabulary:
    """Learn at least `num_merges` merges from text, or as many as it has.

    Raises:
        ValueError: A number is out of range, or no character is frequent enough.
    """
    if num_merges < 1:
        raise ValueError(f"--merges is {num_merges}, at least 1 is wanted")
    if min_count < 1:
        raise ValueError(f"--min_count is {min_count}, at least 1 is wanted")
    characters = _frequent_characters(sources, lowercase, min_count)
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIALS) + len(characters) + num_merges,
        special_tokens=list(SPECIALS),
        initial_alphabet=characters,
        min_frequency=MIN_PAIR_COUNT,
        show_progress=sys.stderr.isatty(),
    )
    backend.train_from_iterator(_marked_words(sources, lowercase, characters), trainer)
    model = json.loads(backend.to_str())["model"]
    return Vocabulary(
        characters=characters, merges=[(left, right) for left, right in model["merges"]]
    )


def build(vocabulary: Vocabulary, num_merges: int, lowercase: bool) -> bytes:
    """The `tokenizer.json` of the first merges of a vocabulary.

    Raises:
        ValueError: The vocabulary has fewer merges.
    """
    tokens, merges = vocabulary.tokens(num_merges)
    ids = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=SPECIALS[1]))
    backend.normalizer = _normalizer(lowercase)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(WORD_MARK, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(WORD_MARK, prepend_scheme="always")
    backend.add_special_tokens(
        # [MASK] stands for a token with its `▁`, so it takes the blank before it.
        [tokenizers.AddedToken(name, lstrip=name == "[MASK]", special=True) for name in SPECIALS]
    )
    content: str = backend.to_str(pretty=True)
    return (content + "\n").encode()


def write(path: Path, content: bytes) -> None:
    """Write a tokenizer.json, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(content)


def _normalizer(lowercase: bool) -> normalizers.Normalizer:
    steps: list[Any] = [normalizers.NFC()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps)


def _texts(
    sources: list[Source], lowercase: bool, title: str, counts: Counter[str]
) -> Iterator[str]:
    """Clean text as the tokenizer's normaliser leaves it, some thousand lines at a time."""
    total = sum(source.size for source in sources)
    before = 0
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        for source in sources:
            for chunk, position in read_chunks(source):
                lines = clean_lines(chunk, source.line_kind, counts, source.column)
                text = "\n".join(lines)
                # The library lowers each character alone, so a final sigma is no other letter.
                yield text.replace("Σ", "σ").lower() if lowercase else text
                bar.update(before + position - bar.n)
            before += source.size


def _frequent_characters(sources: list[Source], lowercase: bool, min_count: int) -> list[str]:
    """The characters seen often enough, in order of code point; a blank is a word mark."""
    counts: npt.NDArray[np.int64] = np.zeros(0x110000, dtype=np.int64)
    cleaned: Counter[str] = Counter()
    for text in _texts(sources, lowercase, "characters", cleaned):
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        counts += np.bincount(points, minlength=len(counts))
    counts[ord(WORD_MARK)] += counts[ord(" ")] + counts[ord("\n")] + 1
    counts[[ord("\n"), ord(" ")]] = 0
    characters = [chr(point) for point in np.flatnonzero(counts >= min_count)]
    if not characters:
        raise ValueError(
            no_text(cleaned)
            or f"no character of the text is seen {min_count} times: give more text"
        )
    return characters


def _marked_words(sources: list[Source], lowercase: bool, characters: list[str]) -> Iterator[str]:
    """Lines of marked words, broken by blanks at what is not in the alphabet."""
    others = re.compile(f"[^{re.escape(''.join(characters))} \n]")
    for text in _texts(sources, lowercase, "merges", Counter()):
        known = others.sub(" ", _SPECIAL.sub(" ", _marked(text)))
        yield from known.split("\n")


def _marked(text: str) -> str:
    """A word mark before every word; one inside a word begins another, as in the tokenizer."""
    marked = WORD_MARK + text.replace(" ", f" {WORD_MARK}").replace("\n", f"\n{WORD_MARK}")
    return re.sub(f"(?<=[^ \n]){WORD_MARK}", f" {WORD_MARK}", marked) if "▁" in text else marked
