"""The metrics of the field, from predicted and expected labels.

A metric is from 0 to 1, or from -1 to 1 for correlations. Where a metric is undefined, since all
predictions are equal, it is 0, as in scikit-learn.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BIO = re.compile(r"O|[BI]-.+")
_STS_LIMIT = 3.0  # KLUE: texts with at least this similarity mean the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What a model predicted for N examples: numbers of classes, or values of a regression."""

    predicted: Floats
    """(N,); -1 for a tag that is none of the names."""
    expected: Floats
    """(N,)"""
    names: Sequence[str] = ()
    """The labels' names by number; empty for a regression."""
    groups: Sequence[object] = ()
    """(N,) what belongs together, for the exact match of a group."""
    sequences: Sequence[tuple[Sequence[str], Sequence[str]]] = ()
    """The predicted and expected tags of each sequence, for tokens only: the arrays have all tags."""


def accuracy(found: Predictions) -> float:
    """The fraction of predictions that are right."""
    return float((found.predicted == found.expected).mean())


def f1(found: Predictions) -> float:
    """F1 of the second of two labels, the positive one."""
    return _f1(found.predicted == 1, found.expected == 1)


def f1_macro(found: Predictions) -> float:
    """The mean F1 of all labels that occur."""
    present = [n for n in np.union1d(found.predicted, found.expected) if n >= 0]
    return float(np.mean([_f1(found.predicted == n, found.expected == n) for n in present]))


def f1_micro_of_relations(found: Predictions) -> float:
    """F1 over all labels but `no_relation` together."""
    none = [number for number, name in enumerate(found.names) if name == "no_relation"]
    right = (found.predicted == found.expected) & ~np.isin(found.expected, none)
    return _ratio(
        2 * right.sum(),
        (~np.isin(found.predicted, none)).sum() + (~np.isin(found.expected, none)).sum(),
    )


def f1_of_similar(found: Predictions) -> float:
    """F1 of the pairs with a similarity of at least 3."""
    return _f1(found.predicted >= _STS_LIMIT, found.expected >= _STS_LIMIT)


def mcc(found: Predictions) -> float:
    """Matthews' correlation coefficient, for any number of labels (Gorodkin, 2004)."""
    size = len(found.names)
    confusion = np.zeros((size, size))
    np.add.at(confusion, (found.expected.astype(int), found.predicted.astype(int)), 1)
    expected, predicted, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    covariance = np.trace(confusion) * total - expected @ predicted
    spread = (total**2 - expected @ expected) * (total**2 - predicted @ predicted)
    return _ratio(covariance, np.sqrt(spread))


def exact_match(found: Predictions) -> float:
    """The fraction of groups of which all predictions are right."""
    right: dict[object, bool] = {}
    for group, is_right in zip(found.groups, found.predicted == found.expected, strict=True):
        right[group] = right.get(group, True) and bool(is_right)
    return sum(right.values()) / len(right)


def pearson(found: Predictions) -> float:
    """Pearson's correlation coefficient."""
    return _correlation(found.predicted, found.expected)


def spearman(found: Predictions) -> float:
    """Spearman's correlation coefficient; equal values share the mean of their ranks."""
    return _correlation(_ranks(found.predicted), _ranks(found.expected))


def entity_f1(found: Predictions) -> float:
    """F1 of the entities, as CoNLL's script counts them: type and both ends must be right."""
    return _f1_of_entities(_count_entities(found, strict=False))


def entity_f1_macro(found: Predictions) -> float:
    """The mean F1 of the entity types; an entity must start with a B tag, as KLUE counts them."""
    counts = _count_entities(found, strict=True)
    by_type = {kind: Counter[str]() for _, kind in counts}
    for (what, kind), count in counts.items():
        by_type[kind][what] += count
    scores = [
        _f1_of_entities(Counter({(w, ""): n for w, n in each.items()})) for each in by_type.values()
    ]
    return float(np.mean(scores)) if scores else 0.0


def tag_f1_macro(found: Predictions) -> float:
    """The mean F1 of all tags but O that occur."""
    present = np.union1d(found.predicted, found.expected)
    counted = [n for n in present if n >= 0 and found.names[int(n)] != "O"]
    scores = [_f1(found.predicted == n, found.expected == n) for n in counted]
    return float(np.mean(scores)) if scores else 0.0


METRICS: dict[str, Callable[[Predictions], float]] = {
    metric.__name__: metric
    for metric in (
        *(accuracy, f1, f1_macro, f1_micro_of_relations, f1_of_similar, mcc, exact_match),
        *(pearson, spearman, entity_f1, entity_f1_macro, tag_f1_macro),
    )
}
"""All metrics by their names."""


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0


def _f1(predicted: npt.NDArray[np.bool_], expected: npt.NDArray[np.bool_]) -> float:
    return _ratio(2 * (predicted & expected).sum(), predicted.sum() + expected.sum())


def _correlation(first: Floats, second: Floats) -> float:
    first, second = first - first.mean(), second - second.mean()
    return _ratio(first @ second, np.sqrt((first @ first) * (second @ second)))


def _ranks(values: Floats) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks: Floats = np.cumsum(counts) - (counts - 1) / 2
    return mean_ranks[places]


def _f1_of_entities(counts: Counter[tuple[str, str]]) -> float:
    total: Counter[str] = Counter()
    for (what, _), count in counts.items():
        total[what] += count
    return _ratio(2 * total["right"], total["predicted"] + total["expected"])


def _count_entities(found: Predictions, *, strict: bool) -> Counter[tuple[str, str]]:
    """How many entities of each type are predicted, expected, and right."""
    counts: Counter[tuple[str, str]] = Counter()
    for tags, expected_tags in found.sequences:
        predicted, expected = entities(tags, strict=strict), entities(expected_tags, strict=strict)
        for what, each in (
            ("predicted", predicted),
            ("expected", expected),
            ("right", predicted & expected),
        ):
            counts.update((what, kind) for kind, _, _ in each)
    return counts


def entities(tags: Sequence[str], *, strict: bool = False) -> set[tuple[str, int, int]]:
    """The entities in BIO tags: type, first tag, last tag.

    Without `strict`, an I tag also starts an entity if it does not continue one of its type.
    """
    found = set()
    start, current = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        if prefix == "I" and kind == current:
            continue
        if current:
            found.add((current, start, place - 1))
        is_start = prefix == "B" or (prefix == "I" and not strict)
        start, current = place, kind if is_start else ""
    return found
