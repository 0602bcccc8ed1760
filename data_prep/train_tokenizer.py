"""Trains a BPE vocabulary with a given number of merges, stored as a Hugging Face `tokenizer.json`.

    text --clean, NFC, lower case--> words `▁like ▁these` --BPE--> specials, characters, N merges

Ids 0 to 4 are `[PAD] [UNK] [CLS] [SEP] [MASK]`. Then come the characters that occur at least
`min_count` times, by code point, and the merges in the order in which they were found. The first M
merges of a vocabulary are therefore the vocabulary of M merges.

While merges are counted, a rarer character ends a word. Leaving it out would make its neighbors
adjacent and count pairs that the text does not contain. The text is read twice and not held in
memory; 80 MB of text and 50,000 merges take about a minute.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm

from bertds.io.atomic import atomic_write
from data_prep.output.manifest import is_up_to_date, write_manifest
from data_prep.readers.cleaning import clean_lines
from data_prep.readers.counts import (
    add_kept,
    add_reader_counts,
    check_is_utf8,
    explain_nothing_kept,
    format_counts,
    warn_of_losses,
)
from data_prep.readers.sources import Inputs, Source, open_sources
from data_prep.readers.text import read_chunks

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORD_MARK = "▁"
FORMAT = 1  # to be raised when the same text gives another vocabulary
MIN_PAIR_COUNT = 2  # pairs that occur only once are not merged
_SPECIAL = re.compile("|".join(map(re.escape, SPECIALS)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The result of training: the characters, the merges in order, and what became of the text."""

    characters: list[str]
    merges: list[tuple[str, str]]
    counts: Counter[str] = field(default_factory=Counter)

    def tokens(self, num_merges: int) -> tuple[list[str], list[tuple[str, str]]]:
        """The tokens of a vocabulary with `num_merges` merged tokens, and their merges.

        Two merges may make the same token, as `a` `aa` and `aa` `a` do. It counts once.

        Raises:
            ValueError: This vocabulary has fewer.
        """
        tokens = dict.fromkeys([*SPECIALS, *self.characters])
        num_tokens = len(tokens) + num_merges
        merges: list[tuple[str, str]] = []
        for merge in self.merges:
            if len(tokens) == num_tokens:
                break
            tokens["".join(merge)] = None
            merges.append(merge)
        if len(tokens) < num_tokens:
            available = num_merges - num_tokens + len(tokens)
            raise ValueError(
                f"the text has only {available:,} merges, {num_merges:,} were requested: set "
                f"--merges to {available:,} or less, or give more text"
            )
        return list(tokens), merges


def make_tokenizer(
    inputs: Inputs | str, num_merges: int, path: Path, lowercase: bool, min_count: int
) -> None:
    """Train and write a tokenizer.json; a finished one is kept.

    Raises:
        ValueError: The text has too few merges; nothing is written.
        FileExistsError: `path` holds another file.
    """
    manifest = path.with_name(f"{path.stem}.made.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_sources(inputs, path.parent) as sources:
        recipe = tokenizer_recipe(sources, num_merges, lowercase, min_count)
        if is_up_to_date(manifest, [path], recipe):
            print(f"{path}: already finished, nothing to do")
            return
        vocabulary = learn(sources, num_merges, lowercase, min_count)
        print(f"{path}:\n{format_counts(vocabulary.counts)}")
        content = build(vocabulary, num_merges, lowercase)
        num_characters = len(vocabulary.characters)
        write_manifest(manifest, recipe, {"characters": num_characters})
        write(path, content)
    print(
        f"{path}: {len(SPECIALS)} special tokens, {num_characters:,} characters, "
        f"{num_merges:,} merges: {len(SPECIALS) + num_characters + num_merges:,} ids"
    )


def tokenizer_recipe(
    sources: list[Source], num_merges: int, lowercase: bool, min_count: int
) -> dict[str, Any]:
    """Everything that the bytes of a tokenizer depend on."""
    return {
        "format": FORMAT,
        "merges": num_merges,
        "lowercase": lowercase,
        "min_count": min_count,
        "sources": [source.identity for source in sources],
    }


def learn(sources: list[Source], num_merges: int, lowercase: bool, min_count: int) -> Vocabulary:
    """Learn at least `num_merges` merges, or all that the text has.

    Raises:
        ValueError: A number is out of range, or no character is frequent enough.
    """
    if num_merges < 1:
        raise ValueError(f"--merges is {num_merges}, expected at least 1")
    if min_count < 1:
        raise ValueError(f"--min_count is {min_count}, expected at least 1")
    counts: Counter[str] = Counter()
    characters = _frequent_characters(sources, lowercase, min_count, counts)
    add_kept(counts)
    warn_of_losses("tokenizer", counts)
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
    merges = [(left, right) for left, right in model["merges"]]
    return Vocabulary(characters=characters, merges=merges, counts=counts)


def build(vocabulary: Vocabulary, num_merges: int, lowercase: bool) -> bytes:
    """The `tokenizer.json` of the first merges of a vocabulary.

    Raises:
        ValueError: The vocabulary has fewer merges.
    """
    tokens, merges = vocabulary.tokens(num_merges)
    ids = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=SPECIALS[1]))
    steps: list[Any] = [normalizers.NFC()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(WORD_MARK, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(WORD_MARK, prepend_scheme="always")
    backend.add_special_tokens(
        # [MASK] replaces a token including its `▁`, so it takes the space before it.
        [tokenizers.AddedToken(name, lstrip=name == "[MASK]", special=True) for name in SPECIALS]
    )
    content: str = backend.to_str(pretty=True)
    return (content + "\n").encode()


def write(path: Path, content: bytes) -> None:
    """Write a tokenizer.json atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(content)


def _texts(
    sources: list[Source], lowercase: bool, title: str, counts: Counter[str]
) -> Iterator[str]:
    """The text as the tokenizer normalizes it, one chunk of lines at a time."""
    total = sum(source.size for source in sources)
    before = 0
    with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None) as bar:
        for source in sources:
            of_source: Counter[str] = Counter()
            by_reader: Counter[str] = Counter()
            for chunk, position in read_chunks(source, by_reader):
                lines = clean_lines(chunk, source.line_kind, of_source, source.column)
                text = "\n".join(lines)
                # The library lower-cases each character alone, so it has no final sigma.
                yield text.replace("Σ", "σ").lower() if lowercase else text
                bar.update(before + position - bar.n)
            check_is_utf8(source.path, of_source)
            counts.update(of_source)
            add_reader_counts(counts, by_reader)
            before += source.size


def _frequent_characters(
    sources: list[Source], lowercase: bool, min_count: int, counts: Counter[str]
) -> list[str]:
    """The characters seen at least `min_count` times, by code point; spaces count as word marks.

    Adds what became of the lines to `counts`.
    """
    occurrences: npt.NDArray[np.int64] = np.zeros(0x110000, dtype=np.int64)
    for text in _texts(sources, lowercase, "characters", counts):
        code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        occurrences += np.bincount(code_points, minlength=len(occurrences))
    occurrences[ord(WORD_MARK)] += occurrences[ord(" ")] + occurrences[ord("\n")] + 1
    occurrences[[ord("\n"), ord(" ")]] = 0
    characters = [chr(point) for point in np.flatnonzero(occurrences >= min_count)]
    if not characters:
        raise ValueError(
            explain_nothing_kept(counts, sources[0].column)
            or f"no character occurs at least {min_count} times (--min_count): give more text"
        )
    return characters


def _marked_words(sources: list[Source], lowercase: bool, characters: list[str]) -> Iterator[str]:
    """Lines of words with word marks; special tokens and unknown characters become spaces."""
    unknown = re.compile(f"[^{re.escape(''.join(characters))} \n]")
    for text in _texts(sources, lowercase, "merges", Counter()):
        marked = WORD_MARK + text.replace(" ", f" {WORD_MARK}").replace("\n", f"\n{WORD_MARK}")
        if WORD_MARK in text:  # a mark inside a word starts another word, as in the tokenizer
            marked = re.sub(f"(?<=[^ \n]){WORD_MARK}", f" {WORD_MARK}", marked)
        yield from unknown.sub(" ", _SPECIAL.sub(" ", marked)).split("\n")
