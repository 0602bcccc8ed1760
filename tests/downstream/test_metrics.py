"""The metrics have the values of scikit-learn, SciPy and seqeval, and the properties that define them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.downstream.metrics import METRICS, Predictions, entities

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)
NAMES = ("no_relation", "b", "c", "d")
OF_CLASSES = ("accuracy", "f1", "f1_macro", "f1_micro_of_relations", "mcc")


def found(predicted, expected, **more):
    return Predictions(
        predicted=np.array(predicted, float),
        expected=np.array(expected, float),
        names=more.pop("names", NAMES),
        **more,
    )


def tagged(predicted, expected):
    return Predictions(
        predicted=np.zeros(0),
        expected=np.zeros(0),
        sequences=[(a.split(), b.split()) for a, b in zip(predicted, expected, strict=True)],
    )


@pytest.mark.parametrize(
    ("metric", "predicted", "expected", "value"),
    [
        # From the pages of the functions in scikit-learn and SciPy.
        ("mcc", [1, 0, 1, 1], [1, 1, 1, 0], -1 / 3),
        ("f1_macro", [0, 2, 1, 0, 0, 1], [0, 1, 2, 0, 1, 2], 4 / 15),
        ("spearman", [5, 6, 7, 8, 7], [1, 2, 3, 4, 5], 0.8207826816681233),
        ("pearson", [10, 9, 2.5, 6, 4], [1, 2, 3, 4, 5], -0.7426106572325056),
        # By hand: two of three positives found, one false alarm; pairs with at least 3 are similar.
        ("f1", [1, 1, 0, 1], [1, 1, 1, 0], 2 / 3),
        ("f1_of_similar", [3.0, 2.9, 4.0], [5.0, 3.0, 1.0], 1 / 2),
        # Of the relations, one is right; two are predicted and two expected.
        ("f1_micro_of_relations", [1, 2, 0, 0], [1, 0, 0, 3], 1 / 2),
    ],
)
def test_known_values(metric, predicted, expected, value):
    assert METRICS[metric](found(predicted, expected)) == pytest.approx(value, abs=1e-12)


@given(PAIRS)
def test_metrics_of_classes(pairs):
    """1 for what is right, within bounds, and independent of the order of examples."""
    predicted, expected = map(list, zip(*pairs, strict=True))
    for name in OF_CLASSES:
        value = METRICS[name](found(predicted, expected))
        assert -1 <= value <= 1
        turned = METRICS[name](found(predicted[::-1], expected[::-1]))
        assert turned == pytest.approx(value)
    right = found(expected, expected)
    assert METRICS["accuracy"](right) == METRICS["f1_macro"](right) == 1
    binary = found([p % 2 for p in predicted], [e % 2 for e in expected], names=("a", "b"))
    assert METRICS["mcc"](binary) == pytest.approx(METRICS["pearson"](binary), abs=1e-9)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=30))
def test_a_rank_correlation_ignores_the_scale(pairs):
    predicted, expected = map(list, zip(*pairs, strict=True))
    value = METRICS["spearman"](found(predicted, expected))
    stretched = [number**3 + 5 for number in predicted]
    assert METRICS["spearman"](found(stretched, expected)) == pytest.approx(value)


def test_constant_predictions_have_no_correlation():
    for name in ("mcc", "pearson", "spearman"):
        assert METRICS[name](found([1, 1, 1], [0, 1, 2])) == 0


def test_a_group_is_right_if_all_of_it_is():
    of_groups = found([1, 0, 1, 1], [1, 0, 1, 0], groups=["a", "a", "b", "b"])
    assert METRICS["exact_match"](of_groups) == 1 / 2


@given(st.lists(st.tuples(st.sampled_from(["PER", "LOC"]), st.integers(1, 3)), max_size=6))
def test_tags_have_the_entities_that_they_were_made_of(parts):
    """Neighbouring entities are told apart, in both ways of counting."""
    tags, expected = ["O"], set()
    for kind, length in parts:
        expected.add((kind, len(tags), len(tags) + length - 1))
        tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
    assert entities(tags) == entities(tags, strict=True) == expected


def test_entities_that_start_inside():
    tags = ["O", "I-PER", "I-PER", "I-LOC", "O"]
    assert entities(tags) == {("PER", 1, 2), ("LOC", 3, 3)}
    assert entities(tags, strict=True) == set()


def test_scores_of_entities():
    expected = ["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"]  # seqeval's example
    predicted = ["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"]
    assert METRICS["entity_f1"](tagged(predicted, expected)) == 1 / 2
    assert METRICS["entity_f1_macro"](tagged(predicted, expected)) == 1 / 2
    # Three people of four are right, the place is not: 3/4 together, and the mean of 1 and 0 by type.
    expected = ["B-PER O B-PER O B-PER O B-LOC"]
    predicted = ["B-PER O B-PER O B-PER B-LOC O"]
    assert METRICS["entity_f1"](tagged(predicted, expected)) == 3 / 4
    assert METRICS["entity_f1_macro"](tagged(predicted, expected)) == 1 / 2
