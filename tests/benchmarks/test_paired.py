"""Intervals of differences between runs: they hold the true difference as often as they say."""

import math

import numpy as np
import pytest

from benchmarks.reproduction import paired
from benchmarks.reproduction.paired import paired_effect, unpaired_effect
from bertds.inference.sequence_sums import SequenceSums

SIZE = 200


def sums(nats, *, text=None, correct=0, characters=50):
    size = len(nats)
    return SequenceSums(
        nats=np.asarray(nats, dtype=np.float32),
        correct=np.full(size, correct),
        masked=np.full(size, 5),
        maskable=np.full(size, 30),
        characters=np.full(size, characters),
        text=np.arange(size) if text is None else text,
    )


def experiment(generator, *, difference, seed_noise, hardness=0.0, sequence_noise=0.0):
    """Three seeds of two arms: hard sequences are hard for both, and for all seeds."""
    base = 15 + hardness * generator.normal(size=SIZE)
    varying = sequence_noise * generator.normal(size=SIZE)  # of the arms' difference
    left, right = [], []
    for _ in range(3):
        a, b = seed_noise * generator.normal(size=2)
        noise = generator.normal(size=(2, SIZE))
        left.append(sums(base + 5 * (difference + varying + a) + noise[0]))
        right.append(sums(base + 5 * b + noise[1]))
    return left, right


@pytest.mark.parametrize(
    ("seed_noise", "sequence_noise"), [(0.1, 0.0), (0.0, 1.0), (0.05, 0.5)], ids=str
)
def test_the_interval_holds_the_true_difference_in_95_of_100_experiments(
    seed_noise, sequence_noise, monkeypatch
):
    monkeypatch.setattr(paired, "DRAWS", 500)
    generator = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        left, right = experiment(
            generator, difference=0.2, seed_noise=seed_noise, sequence_noise=sequence_noise
        )
        effect = paired_effect(left, right, "nats")
        hits += effect.low <= 0.2 <= effect.high
    assert 0.91 < hits / 300 < 0.99


def test_pairs_remove_what_is_hard_for_both_arms():
    left, right = experiment(np.random.default_rng(1), difference=0.2, seed_noise=0, hardness=20)
    effect = paired_effect(left, right, "nats")
    assert effect.low > 0
    assert effect.mean == pytest.approx(0.2, abs=0.05)
    apart = unpaired_effect(left, right, "nats")
    assert apart.mean == pytest.approx(effect.mean)
    assert apart.low < 0 < apart.high


def test_sequences_are_paired_by_their_texts():
    generator = np.random.default_rng(2)
    nats = generator.normal(10, 3, SIZE)
    order = generator.permutation(SIZE)
    left, right = sums(nats), sums(nats[order] + 1, text=order)
    effect = paired_effect([left], [right], "nats")
    assert effect.mean == pytest.approx(-1 / 5, abs=1e-6)
    other = sums(nats, text=np.arange(SIZE) + 10_000)
    with pytest.raises(ValueError, match="different texts"):
        paired_effect([left], [other], "nats")


def test_a_text_that_is_there_several_times_counts_once():
    text = np.arange(SIZE) % (SIZE // 2)
    nats = np.where(np.arange(SIZE) < SIZE // 2, 10.0, 1e9)
    effect = paired_effect([sums(nats, text=text)], [sums(nats - 5, text=text)], "nats")
    assert effect.mean == pytest.approx(1)


def test_one_seed_has_no_interval():
    effect = paired_effect([sums(np.full(SIZE, 10.0))], [sums(np.full(SIZE, 9.0))], "nats")
    assert (effect.low, effect.high) == (-math.inf, math.inf)


def test_each_measure_is_a_ratio_of_sums():
    nats = np.linspace(5, 20, SIZE)
    left, right = [sums(nats, correct=3, characters=60)], [sums(nats * 2, correct=1)]
    assert paired_effect(left, right, "accuracy").mean == pytest.approx(2 / 5)
    loss = nats.mean() / 5
    assert paired_effect(left, right, "nats").mean == pytest.approx(-loss, rel=1e-6)
    bits = loss / math.log(2) * 30
    expected = bits / 60 - 2 * bits / 50
    assert paired_effect(left, right, "bits").mean == pytest.approx(expected, rel=1e-6)
