"""Counts of tokens and of pairs of neighbouring tokens in the training text, and their smoothing.

Both models use interpolated absolute discounting (Ney, Essen and Kneser, 1994; Chen and Goodman,
1998, section 2.7):

    P(y | n) = max(c(n, y) - d, 0) / c(n) + d T(n) / c(n) P(y)

with c(n, y) the count of the pair, T(n) the number of different y after n, and d = 0.75. The
unigram P(y) has the same form, without n and with the uniform distribution in place of P(y). A
context that was never seen gives P(y).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bertds.data.dataset import DatasetSubset, mean_length_of

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Blocks = Iterator[tuple[Ints, Ints]]

MAX_TOKENS = 1 << 23
"""Counted at most: the first blocks of each set, whose lines are in random order. It takes about
four seconds and 300 MB."""
_DISCOUNT = 0.75


@dataclass(frozen=True, slots=True)
class Unigram:
    """P(y) for all V ids; ids that are never masked have probability 0."""

    probabilities: Floats

    @classmethod
    def of(cls, counts: Floats, drawable: Ints) -> "Unigram":
        """Smooth the (V,) counts of ids; `drawable` are the ids that masking may choose."""
        discounted = np.maximum(counts[drawable] - _DISCOUNT, 0) / max(1.0, counts[drawable].sum())
        probabilities = np.zeros(counts.size)
        probabilities[drawable] = discounted + (1 - discounted.sum()) / drawable.size
        return cls(probabilities)

    def probability(self, context: Ints, token: Ints) -> Floats:  # noqa: ARG002 - as of a bigram
        """P(token), elementwise."""
        probability: Floats = self.probabilities[token]
        return probability

    def best(self, context: Ints) -> Int64s:
        """The most likely id, for each context."""
        return np.full(context.size, self.probabilities.argmax())


@dataclass(frozen=True, slots=True)
class Bigram:
    """P(y | n) for a neighbour n: the token before y, or the token after it."""

    unigram: Unigram
    keys: Int64s
    """(K,) n V + y of each pair that was seen, ascending."""
    discounted: Floats
    """(K,) max(c(n, y) - d, 0) / c(n)."""
    rest: Floats
    """(contexts,) d T(n) / c(n): the weight of P(y); 1 for a context that was not seen."""
    best_token: Int64s
    """(contexts,) the most likely y."""

    @classmethod
    def of(cls, keys: Int64s, counts: Floats, unigram: Unigram, num_contexts: int) -> "Bigram":
        """Smooth counts of pairs.

        Args:
            keys: (K,) n V + y, ascending, each once.
            counts: (K,) how often each pair was seen.
            unigram: P(y).
            num_contexts: Number of values of n.
        """
        vocab_size = unigram.probabilities.size
        context, token = np.divmod(keys, vocab_size)
        totals = np.bincount(context, counts, num_contexts)
        discounted = np.maximum(counts - _DISCOUNT, 0)
        kept = np.bincount(context, discounted, num_contexts)
        seen = np.maximum(totals, 1e-300)
        rest = np.where(totals > 0, 1 - kept / seen, 1.0)
        discounted /= seen[context]
        # The best y was seen after n, or it is the most frequent id.
        probabilities = discounted + rest[context] * unigram.probabilities[token]
        best = np.full(num_contexts, unigram.probabilities.argmax())
        order = np.lexsort((probabilities, context))
        last = np.flatnonzero(np.diff(context[order], append=num_contexts))
        winners = order[last]
        is_better = probabilities[winners] >= (
            rest[context[winners]] * unigram.probabilities[best[context[winners]]]
        )
        best[context[winners[is_better]]] = token[winners[is_better]]
        return cls(unigram, keys, discounted, rest, best)

    def best(self, context: Ints) -> Int64s:
        """The most likely id after each context."""
        return self.best_token[context]

    def probability(self, context: Ints, token: Ints) -> Floats:
        """P(token | context), elementwise."""
        key = context.astype(np.int64) * self.unigram.probabilities.size + token
        index = np.minimum(np.searchsorted(self.keys, key), max(0, self.keys.size - 1))
        is_seen = self.keys[index] == key if self.keys.size else np.zeros(key.size, dtype=bool)
        discounted = np.where(is_seen, self.discounted[index], 0) if self.keys.size else 0.0
        probability: Floats = discounted + self.rest[context] * self.unigram.probabilities[token]
        return probability


@dataclass(frozen=True, slots=True)
class NGrams:
    """The unigram, and the bigrams with the token before and with the token after."""

    unigram: Unigram
    before: Bigram
    after: Bigram
    edge: int
    """The context beyond either end of a sequence."""

    @classmethod
    def count(
        cls,
        train: Sequence[DatasetSubset],
        vocab_size: int,
        drawable: Ints,
        with_progress: Callable[[Iterable[tuple[Ints, Ints]]], Blocks] = iter,
    ) -> "NGrams":
        """Count the training sets, each with its weight.

        Args:
            train: The training sets.
            vocab_size: V. Contexts are the ids, and V for the edge of a sequence.
            drawable: Ids that masking may choose.
            with_progress: Wraps the blocks that are read.

        Raises:
            ShardError: A block is damaged.
        """
        tokens = np.zeros(vocab_size)
        pairs: list[list[tuple[Int64s, Floats]]] = [[], []]
        is_drawable = np.zeros(vocab_size, dtype=bool)
        is_drawable[drawable] = True
        for subset in train:
            keys: list[list[Int64s]] = [[], []]
            for ids, lengths in with_progress(_blocks(subset, _share(train))):
                is_chosen = is_drawable[ids]
                tokens += subset.weight * np.bincount(ids[is_chosen], minlength=vocab_size)
                for side, context in enumerate(neighbours(ids, lengths, vocab_size)):
                    keys[side].append(context[is_chosen] * vocab_size + ids[is_chosen])
            for side in (0, 1):
                found, counts = np.unique(np.concatenate(keys[side]), return_counts=True)
                pairs[side].append((found, subset.weight * counts.astype(np.float64)))
        unigram = Unigram.of(tokens, drawable)
        before, after = (Bigram.of(*_sum(each), unigram, vocab_size + 1) for each in pairs)
        return cls(unigram, before, after, vocab_size)


def neighbours(ids: Ints, lengths: Ints, edge: int) -> tuple[Int64s, Int64s]:
    """The ids before and after each token of concatenated sequences; `edge` at the ends."""
    ends = np.cumsum(lengths, dtype=np.int64)
    before, after = np.full((2, ids.size), edge, dtype=np.int64)
    before[1:], after[:-1] = ids[:-1], ids[1:]
    before[ends[:-1]] = edge
    after[ends - 1] = edge
    return before, after


def _share(train: Sequence[DatasetSubset]) -> float:
    """The share of each set that is counted."""
    total = mean_length_of([*train]) * sum(each.num_sequences * each.weight for each in train)
    return min(1.0, MAX_TOKENS / total)


def _blocks(subset: DatasetSubset, share: float) -> Blocks:
    """Ids and lengths of the first sequences of a set."""
    num_sequences = max(1, int(share * subset.num_sequences))
    for number in range(subset.block_of(num_sequences - 1) + 1):
        _, block = subset.read_block(number)
        lengths = block.lengths[: num_sequences - subset.shards.first_sequence(number)]
        yield block.tokens[: int(lengths.sum(dtype=np.int64))].astype(np.int64), lengths


def _sum(parts: list[tuple[Int64s, Floats]]) -> tuple[Int64s, Floats]:
    """Add the counts of equal keys."""
    if len(parts) == 1:
        return parts[0]
    keys, index = np.unique(np.concatenate([keys for keys, _ in parts]), return_inverse=True)
    counts = np.bincount(index, np.concatenate([counts for _, counts in parts]))
    return keys, counts.astype(np.float64)
