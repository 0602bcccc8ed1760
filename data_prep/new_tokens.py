"""Chooses the tokens that extend a vocabulary: those that save most pieces of a text.

A new token is a run of old pieces that follow one another in a word. It saves a piece for each of its
pieces but the first, wherever it occurs:

    saved = occurrences x (pieces - 1), without what other new tokens save already

`word_beginnings` takes the run that saves most, again and again. `merged_runs` continues the training
of a BPE vocabulary from its own pieces: each merge joins the pair that is most frequent then.
"""

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

Run = tuple[int, ...]
"""Ids of old pieces that follow one another in a word."""
Words = Mapping[Run, int]
"""The pieces of each word, with its number of occurrences."""

MIN_COUNT = 2
"""Least number of occurrences of a new token."""
_FIRST_LETTER = 0x10000
"""The trainer gets a letter for each piece, from planes of Unicode without white space."""
_WORDS_PER_LINE = 1000


def word_beginnings(words: Words, limit: int) -> list[Run]:
    """The beginnings of words, of at least two pieces, that together save most pieces."""
    words_of: dict[Run, list[Run]] = defaultdict(list)
    for word in words:
        for end in range(2, len(word) + 1):
            words_of[word[:end]].append(word)
    joined = dict.fromkeys(words, 1)  # how many pieces of a word its first token replaces

    def saved(run: Run) -> int:
        return sum(words[word] * max(0, len(run) - joined[word]) for word in words_of[run])

    counts = {run: sum(words[word] for word in found) for run, found in words_of.items()}
    heap = [(-saved(run), run) for run, count in counts.items() if count >= MIN_COUNT]
    heapq.heapify(heap)
    chosen: dict[Run, int] = {}  # with the number of different words that begin with it
    while heap and len(chosen) < limit:
        before, run = heapq.heappop(heap)
        now = saved(run)  # may have become less, never more
        if now < -before:
            if now:
                heapq.heappush(heap, (-now, run))
            continue
        longer = [word for word in words_of[run] if joined[word] < len(run)]
        chosen[run] = len(longer)
        for word in longer:
            _use_less(chosen, word[: joined[word]])
            joined[word] = len(run)
    return [*chosen]


def _use_less(chosen: dict[Run, int], run: Run) -> None:
    """One word fewer begins with a run, which is dropped after its last word."""
    if run in chosen:
        chosen[run] -= 1
        if not chosen[run]:
            del chosen[run]


def merged_runs(words: Words, limit: int) -> list[tuple[Run, Run]]:
    """At most `limit` merges of pieces and of earlier runs, as BPE training finds them."""
    pieces = sorted({piece for word in words for piece in word})
    if not pieces:
        return []
    letters = {piece: chr(_FIRST_LETTER + number) for number, piece in enumerate(pieces)}
    piece_of = {letter: piece for piece, letter in letters.items()}
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(letters) + limit, min_frequency=MIN_COUNT, show_progress=False
    )
    backend.train_from_iterator(_lines(words, letters), trainer)
    return [
        (tuple(piece_of[letter] for letter in left), tuple(piece_of[letter] for letter in right))
        for left, right in json.loads(backend.to_str())["model"]["merges"]
    ]


def _lines(words: Words, letters: Mapping[int, str]) -> Iterator[str]:
    """Each word as often as it occurs."""
    for word, count in words.items():
        spelled = "".join(letters[piece] for piece in word) + " "
        for start in range(0, count, _WORDS_PER_LINE):
            yield spelled * min(_WORDS_PER_LINE, count - start)
