"""The random number functions: reference values, uniformity, independence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.data.rng import derive_key, mix64, permutation, splitmix64

integers = st.integers(0, 2**64 - 1)


def test_the_values_are_those_of_splitmix64():
    # The first outputs of SplitMix64 seeded with 1234567 (the generator's reference values).
    assert mix64(1234567) == 6457827717110365317
    assert splitmix64(1234567, np.arange(3)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_golden_values():
    assert derive_key(1, 2, 3) == 9812528628958509896
    assert permutation(7, 10).tolist() == [1, 8, 5, 7, 0, 9, 4, 6, 3, 2]


@given(integers, st.integers(0, 2**40))
def test_the_array_function_equals_the_scalar_one(key, counter):
    gamma = 0x9E3779B97F4A7C15
    values = splitmix64(key, np.array([counter])).tolist()
    assert values == [mix64(key + counter * gamma)]
    assert splitmix64(np.array([key], np.uint64), np.array([counter])).tolist() == values


@given(integers, integers)
def test_a_key_depends_on_order_and_number_of_its_parts(first, second):
    assert derive_key(first) != derive_key(first, 0)
    if first != second:
        assert derive_key(first, second) != derive_key(second, first)


@given(integers, st.integers(0, 3000))
def test_a_permutation_has_every_number_once(key, size):
    assert np.array_equal(np.sort(permutation(key, size)), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_every_number_is_at_every_index_equally_often(size):
    tries = 4000
    permutations = np.stack([permutation(derive_key(9, number), size) for number in range(tries)])
    counts = np.stack([np.bincount(column, minlength=size) for column in permutations.T])
    expected = tries / size
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected) + (size == 1)


@given(integers)
def test_each_bit_is_set_half_the_time(key):
    values = splitmix64(key, np.arange(4096))
    ones = [int((values >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(64)]
    assert max(abs(count - 2048) for count in ones) < 6.5 * 32  # 32: one standard deviation


def test_streams_of_different_keys_are_uncorrelated():
    keys = splitmix64(3, np.arange(1000))
    uniform = np.stack([splitmix64(int(key), np.arange(1000)) for key in keys[:50]]) * 2.0**-64
    correlation = np.corrcoef(uniform)
    assert np.abs(correlation - np.eye(50)).max() < 6 / np.sqrt(1000)
