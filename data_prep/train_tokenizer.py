"""Trains a BPE vocabulary with a given number of merges, stored as a Hugging Face `tokenizer.json`.

    text --clean, NFC, lower case--> words `▁like ▁these` --BPE--> specials, characters, N merges

Ids 0 to 4 are `[PAD] [UNK] [CLS] [SEP] [MASK]`. Then come the characters that occur at least
`min_count` times, by code point, and the merges in the order in which they were found. The first M
merges of a vocabulary are therefore the vocabulary of M merges.

With byte fallback the 256 bytes come before the characters, and stand for rarer characters. A
byte-level vocabulary has the bytes only, and its words are those of GPT-2's pre-tokenizer.

While merges are counted, a rarer character ends a word. Leaving it out would make its neighbors
adjacent and count pairs that the text does not contain. The text is read twice and not held in
memory; 80 MB of text and 50,000 merges take about a minute.
"""

import dataclasses
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from bertds.data.word_starts import WORD_MARK
from data_prep.output.full_disk import explain_full_disk
from data_prep.output.manifest import is_up_to_date, write_manifest
from data_prep.readers.counts import (
    add_kept,
    explain_nothing_kept,
    format_counts,
    warn_of_losses,
)
from data_prep.readers.lines import line_batches
from data_prep.readers.sources import Inputs, Source, open_sources
from data_prep.tokenizer_file import (
    NO_BYTES,
    SPECIALS,
    ByteOptions,
    Vocabulary,
    build,
    normalizer,
    pre_tokenizer,
    write,
)

FORMAT = 1  # to be raised when the same text gives another vocabulary
MIN_PAIR_COUNT = 2  # pairs that occur only once are not merged
_SPECIAL = re.compile("|".join(map(re.escape, SPECIALS)))
_SPECIAL_OR_BYTE = re.compile(f"{_SPECIAL.pattern}|<0x[0-9A-F]{{2}}>")


def make_tokenizer(
    inputs: Inputs | str,
    num_merges: int,
    path: Path,
    lowercase: bool,
    min_count: int,
    options: ByteOptions = NO_BYTES,
) -> None:
    """Train and write a tokenizer.json; a finished one is kept.

    Raises:
        ValueError: The text has too few merges; nothing is written.
        FileExistsError: `path` holds another file.
    """
    manifest = path.with_name(f"{path.stem}.made.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        explain_full_disk("free some space, then run the same command again"),
        open_sources(inputs, path.parent) as sources,
    ):
        recipe = tokenizer_recipe(sources, num_merges, lowercase, min_count, options)
        if is_up_to_date(manifest, [path], recipe):
            print(f"{path}: already finished, nothing to do")
            return
        vocabulary = learn(sources, num_merges, lowercase, min_count, options)
        print(f"{path}:\n{format_counts(vocabulary.counts)}")
        content = build(vocabulary, num_merges, lowercase, options)
        write_manifest(manifest, recipe, {"characters": len(vocabulary.characters)})
        try:
            write(path, content)
        except OSError:
            manifest.unlink(missing_ok=True)  # or it would claim the place of another tokenizer
            raise
    parts = {
        "special tokens": len(SPECIALS),
        "bytes": len(vocabulary.byte_tokens),
        "characters": len(vocabulary.characters),
        "merges": num_merges,
    }
    listed = ", ".join(f"{count:,} {name}" for name, count in parts.items() if count)
    print(f"{path}: {listed}: {sum(parts.values()):,} ids")


def tokenizer_recipe(
    sources: list[Source],
    num_merges: int,
    lowercase: bool,
    min_count: int,
    options: ByteOptions = NO_BYTES,
) -> dict[str, Any]:
    """Everything that the bytes of a tokenizer depend on."""
    used = {name: True for name, is_set in dataclasses.asdict(options).items() if is_set}
    return {
        "format": FORMAT,
        "merges": num_merges,
        "lowercase": lowercase,
        "min_count": min_count,
        **used,  # an option that is not set is absent, as in earlier versions
        "sources": [source.identity for source in sources],
    }


def learn(
    sources: list[Source],
    num_merges: int,
    lowercase: bool,
    min_count: int,
    options: ByteOptions = NO_BYTES,
) -> Vocabulary:
    """Learn at least `num_merges` merges, or all that the text has.

    Raises:
        ValueError: A number is out of range, or no character is frequent enough.
    """
    if num_merges < 1:
        raise ValueError(f"--merges is {num_merges}, expected at least 1")
    if min_count < 1:
        raise ValueError(f"--min_count is {min_count}, expected at least 1")
    counts: Counter[str] = Counter()
    characters: list[str] = []
    backend = tokenizers.Tokenizer(models.BPE())
    if options.byte_level:
        backend.normalizer = normalizer(lowercase)
        backend.pre_tokenizer = pre_tokenizer(options)
        words = _lines_without_special_tokens(sources, options, counts)
    else:
        characters = _frequent_characters(sources, lowercase, min_count, counts)
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        words = _marked_words(sources, lowercase, characters, options)
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIALS) + len(options.byte_tokens) + len(characters) + num_merges,
        special_tokens=list(SPECIALS),
        initial_alphabet=options.byte_tokens if options.byte_level else characters,
        min_frequency=MIN_PAIR_COUNT,
        show_progress=sys.stderr.isatty(),
    )
    backend.train_from_iterator(words, trainer)
    model = json.loads(backend.to_str())["model"]
    add_kept(counts)
    warn_of_losses("tokenizer", counts)
    return Vocabulary(
        characters=characters,
        merges=[(left, right) for left, right in model["merges"]],
        byte_tokens=options.byte_tokens,
        counts=counts,
    )


def _texts(batches: Iterable[list[str]], lowercase: bool) -> Iterator[str]:
    """The text as the tokenizer normalizes it, one chunk of lines at a time."""
    for lines in batches:
        text = "\n".join(lines)
        # The library lower-cases each character alone, so it has no final sigma.
        yield text.replace("Σ", "σ").lower() if lowercase else text


def _frequent_characters(
    sources: list[Source], lowercase: bool, min_count: int, counts: Counter[str]
) -> list[str]:
    """The characters seen at least `min_count` times, by code point; spaces count as word marks.

    Adds what became of the lines to `counts`.
    """
    occurrences: npt.NDArray[np.int64] = np.zeros(0x110000, dtype=np.int64)
    for text in _texts(line_batches(sources, "characters", counts), lowercase):
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


def _marked_words(
    sources: list[Source], lowercase: bool, characters: list[str], options: ByteOptions = NO_BYTES
) -> Iterator[str]:
    """Lines of words with word marks; special tokens and unknown characters become spaces.

    With byte fallback, the names of bytes do as well, so that no merges spell them.
    """
    special = _SPECIAL_OR_BYTE if options.byte_fallback else _SPECIAL
    unknown = re.compile(f"[^{re.escape(''.join(characters))} \n]")
    for text in _texts(line_batches(sources, "merges", Counter()), lowercase):
        marked = WORD_MARK + text.replace(" ", f" {WORD_MARK}").replace("\n", f"\n{WORD_MARK}")
        if WORD_MARK in text:  # a mark inside a word starts another word, as in the tokenizer
            marked = re.sub(f"(?<=[^ \n]){WORD_MARK}", f" {WORD_MARK}", marked)
        yield from unknown.sub(" ", special.sub(" ", marked)).split("\n")


def _lines_without_special_tokens(
    sources: list[Source], options: ByteOptions, counts: Counter[str]
) -> Iterator[str]:
    """Lines in which special tokens became spaces.

    Adds what became of the lines to `counts`.

    Raises:
        ValueError: There is no line.
    """
    is_empty = True
    keeps = options.keep_white_space
    for lines in line_batches(sources, "merges", counts, keep_white_space=keeps):
        is_empty = is_empty and not lines
        yield from (_SPECIAL.sub(" ", line) for line in lines)
    if is_empty:
        reason = explain_nothing_kept(counts, sources[0].column)
        raise ValueError(reason or "the text has no lines: give more text")
