"""Smoothed counts: probabilities sum to one, and equal the formula computed with dictionaries."""

from collections import Counter

import numpy as np
import pytest

from bertds.data.dataset import DatasetSubset
from bertds.metrics import ngrams
from bertds.metrics.ngrams import NGrams

D = 0.75


def sequences_of(subset: DatasetSubset) -> list[list[int]]:
    rows = []
    for number in range(subset.num_blocks):
        block = subset.shards.read_block(number)
        parts = np.split(block.tokens.astype(int), np.cumsum(block.lengths)[:-1])
        rows += [part.tolist() for part in parts]
    return rows[: subset.num_sequences]


def drawable_of(subset: DatasetSubset) -> np.ndarray:
    index = subset.shards.index
    return np.setdiff1d(np.arange(index.vocab_size), index.unmaskable_ids)


@pytest.fixture(scope="module")
def train(data_root):
    return [DatasetSubset.open(data_root, "ko", 0.5, 2), DatasetSubset.open(data_root, "en", 1.0)]


def test_probabilities_are_those_of_absolute_discounting(train):
    drawable = drawable_of(train[0])
    size = train[0].shards.index.vocab_size
    counted = NGrams.count(train, size, drawable)
    tokens: Counter[int] = Counter()
    pairs: dict[str, Counter[tuple[int, int]]] = {"before": Counter(), "after": Counter()}
    for subset in train:
        for row in sequences_of(subset):
            framed = [size, *row, size]
            for left, token, right in zip(framed, row, framed[2:], strict=False):
                if token in drawable:
                    tokens[token] += subset.weight
                    pairs["before"][left, token] += subset.weight
                    pairs["after"][right, token] += subset.weight
    total = tokens.total()
    rest = sum(min(count, D) for count in tokens.values()) / total
    unigram = {y: max(tokens[y] - D, 0) / total + rest / drawable.size for y in drawable.tolist()}
    assert sum(unigram.values()) == pytest.approx(1)
    found = counted.unigram.probability(drawable, drawable)
    assert found == pytest.approx([unigram[y] for y in drawable.tolist()])
    for side, bigram in (("before", counted.before), ("after", counted.after)):
        contexts = Counter(context for context, _ in pairs[side])
        unseen = next(n for n in range(size) if n not in contexts)
        for context in [*contexts][:20] + [size, unseen]:
            of_context = {y: c for (n, y), c in pairs[side].items() if n == context}
            count = sum(of_context.values())
            rest = sum(min(each, D) for each in of_context.values()) / count if count else 1.0
            expected = [
                (max(of_context.get(y, 0) - D, 0) / count if count else 0) + rest * unigram[y]
                for y in drawable.tolist()
            ]
            repeated = np.full(drawable.size, context)
            found = bigram.probability(repeated, drawable)
            assert found == pytest.approx(expected)
            assert found.sum() == pytest.approx(1)
            assert found.max() == pytest.approx(bigram.probability(*best_of(bigram, context))[0])


def best_of(bigram, context) -> tuple[np.ndarray, np.ndarray]:
    contexts = np.array([context])
    return contexts, bigram.best(contexts)


def test_a_large_set_is_counted_in_part(train, monkeypatch):
    drawable, size = drawable_of(train[0]), train[0].shards.index.vocab_size
    read = []

    def blocks(items):
        for ids, lengths in items:
            read.append(ids.size)
            yield ids, lengths

    NGrams.count(train[1:], size, drawable, blocks)
    tokens = train[1].shards.index.tokens
    assert sum(read) == tokens
    monkeypatch.setattr(ngrams, "MAX_TOKENS", tokens // 4)
    read.clear()
    NGrams.count(train[1:], size, drawable, blocks)
    assert sum(read) == pytest.approx(tokens / 4, rel=0.2)
