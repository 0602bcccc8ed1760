"""Differences between runs with intervals, from the sums of each validation sequence.

All runs of a case are validated on the same sequences with the same masks, so two arms are compared sequence
by sequence. A difference between two arms has two sources of random variation:

- The sequences. They are resampled with replacement (bootstrap: Efron, 1979), the same ones for both arms and all
  seeds.
- The seeds. All sequences of a seed share one pair of runs, so each seed is a cluster. There are too few clusters
  to resample. Their uncertainty is that of a mean of n values: s / sqrt(n) times Student's t with n - 1 degrees of
  freedom.

One draw of the difference is the mean over the seeds on resampled sequences, plus a draw of the second term. The
interval contains the middle 95 % of 4,000 draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from bertds.inference.sequence_sums import SequenceSums

Floats = npt.NDArray[np.float64]
Measure = Literal["nats", "accuracy", "bits"]
UNITS: dict[Measure, str] = {
    "nats": "nats",
    "accuracy": "accuracy",
    "bits": "bits per character",
}
DRAWS = 4000
LEVEL = 0.95
_SEED = 20261129


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """A difference, averaged over seeds."""

    mean: float
    low: float
    """Lower end of the interval; minus infinity if there is only one seed."""
    high: float
    by_seed: tuple[float, ...]


def paired_effect(
    left: Sequence[SequenceSums], right: Sequence[SequenceSums], measure: Measure
) -> Effect:
    """The score of the left runs minus that of the right runs on the texts that both have.

    Args:
        left: The sums of one run of each seed.
        right: The same of the other arm, in the order of the seeds.
        measure: What is compared.

    Raises:
        ValueError: The runs were validated on different texts.
    """
    texts = left[0].text
    for sums in (*left, *right):
        texts = np.intersect1d(texts, sums.text)
    if len(texts) < 0.9 * len(np.unique(left[0].text)):
        raise ValueError("the runs were validated on different texts: they cannot be paired")
    weights = _draw_weights(len(texts))
    scores = [
        _scores(_select(one, texts), weights, measure)
        - _scores(_select(other, texts), weights, measure)
        for one, other in zip(left, right, strict=True)
    ]
    return _effect(np.stack(scores))


def unpaired_effect(
    left: Sequence[SequenceSums], right: Sequence[SequenceSums], measure: Measure
) -> Effect:
    """The same for runs on different texts, such as those of two languages."""
    first, second = _draw_weights(len(left[0].text)), _draw_weights(len(right[0].text), stream=1)
    scores = [
        _scores(one, first, measure) - _scores(other, second, measure)
        for one, other in zip(left, right, strict=True)
    ]
    return _effect(np.stack(scores))


def _draw_weights(size: int, stream: int = 0) -> Floats:
    """(1 + DRAWS, S) times that each sequence counts: once in the first row, as drawn in the others."""
    generator = np.random.default_rng((_SEED, stream))
    drawn = generator.multinomial(size, np.full(size, 1 / size), size=DRAWS)
    return np.vstack([np.ones((1, size)), drawn])


def _select(sums: SequenceSums, texts: npt.NDArray[np.uint64]) -> SequenceSums:
    """The sequences with these texts, in their order; of equal texts the first."""
    known, first = np.unique(sums.text, return_index=True)
    at = first[np.searchsorted(known, texts)]
    return SequenceSums(**{each.name: getattr(sums, each.name)[at] for each in fields(sums)})


def _scores(sums: SequenceSums, weights: Floats, measure: Measure) -> Floats:
    """(1 + DRAWS,) scores on weighted sequences."""
    masked = weights @ sums.masked
    if measure == "accuracy":
        return weights @ sums.correct / masked
    nats = weights @ sums.nats / masked
    if measure == "nats":
        return nats
    return nats / math.log(2) * (weights @ sums.maskable) / (weights @ sums.characters)


def _effect(scores: Floats) -> Effect:
    """Combine the (seeds, 1 + DRAWS) differences of the seeds."""
    by_seed, seeds = scores[:, 0], len(scores)
    mean, low, high = float(by_seed.mean()), -math.inf, math.inf
    if seeds > 1:
        spread = by_seed.std(ddof=1) / math.sqrt(seeds)
        generator = np.random.default_rng((_SEED, 2))
        draws = scores[:, 1:].mean(0) + spread * generator.standard_t(seeds - 1, size=DRAWS)
        low, high = map(float, np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Effect(mean=mean, low=low, high=high, by_seed=tuple(map(float, by_seed)))
