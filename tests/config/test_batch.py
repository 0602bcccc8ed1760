"""A global batch is split exactly, into the largest micro-batches that are allowed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertds.config.batch import split_batch, valid_micro_batch_size
from bertds.config.case import Case, read_case
from bertds.errors import ConfigError
from tests.helpers.launching import ROOT

SIZES = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 48, 64, 96, 100, 256, 1000])


def sized(batch: int, maximum: int = 256) -> Case:
    return read_case(
        ROOT / "ds_configs" / "case1.json",
        "layers4",
        f"train_batch_size={batch},run.max_micro_batch_size={maximum}",
    )


@pytest.mark.parametrize(
    ("batch", "maximum", "world_size", "micro", "accumulation"),
    [
        (256, 256, 1, 256, 1),
        (256, 256, 2, 128, 1),
        (256, 64, 1, 64, 4),
        (256, 100, 1, 64, 4),
        (256, 1, 4, 1, 64),
        (96, 36, 2, 24, 2),
        (7, 6, 1, 1, 7),
        (1_000_003, 256, 1, 1, 1_000_003),  # a prime
        (2**40, 512, 2**20, 512, 2**11),
    ],
)
def test_split_of_a_batch(batch, maximum, world_size, micro, accumulation):
    split = split_batch(sized(batch, maximum), world_size)
    assert (split.micro_batch_size, split.accumulation) == (micro, accumulation)


@given(SIZES, SIZES, SIZES)
@settings(deadline=None, max_examples=50)
def test_the_split_is_complete_and_no_larger_micro_batch_fits(rank_batch, world_size, maximum):
    batch = rank_batch * world_size
    split = split_batch(sized(batch, maximum), world_size)
    assert split.micro_batch_size * split.accumulation * world_size == batch
    assert split.micro_batch_size <= maximum
    larger = range(split.micro_batch_size + 1, min(maximum, rank_batch) + 1)
    assert not [size for size in larger if rank_batch % size == 0]


@pytest.mark.parametrize(
    ("batch", "world_size", "nearest"),
    [
        (256, 3, "2 or 4"),
        (256, 100, "128 or 64"),
        (64, 65, "64 or 32"),
        (48, 7, "6 or 8"),
        (5, 2, "1 or 5"),
    ],
)
def test_a_world_size_that_does_not_divide_the_batch(batch, world_size, nearest):
    with pytest.raises(ConfigError) as rejected:
        split_batch(sized(batch), world_size)
    assert str(rejected.value) == (
        f"train_batch_size {batch} cannot be divided among {world_size} processes: start "
        f"{nearest}, or change the batch"
    )


@pytest.mark.parametrize(
    ("maximum", "world_size", "training", "validation"),
    [(256, 1, 256, 256), (64, 1, 64, 64), (256, 32, 8, 16), (60, 1, 32, 60)],
)
def test_validation_uses_twice_the_micro_batch_up_to_the_maximum(
    maximum, world_size, training, validation
):
    case = sized(256, maximum)
    assert split_batch(case, world_size).micro_batch_size == training
    assert valid_micro_batch_size(case, world_size) == validation
