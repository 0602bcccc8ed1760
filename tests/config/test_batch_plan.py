"""Where the batches of a run lie: the arithmetic equals walking there, batch after batch."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bertds.config.batch_plan import BatchPlan, warmup_levels
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import BatchSizeWarmup, RunConfig


@st.composite
def warmups(draw) -> tuple[BatchSizeWarmup, int]:
    multiple = draw(st.integers(1, 4))
    first = multiple * draw(st.integers(1, 3))
    length = draw(st.sampled_from(["num_steps", "num_tokens"]))
    values = {"from_size": first, "multiple_of": multiple, length: draw(st.integers(1, 400))}
    return BatchSizeWarmup(**values), first + multiple * draw(st.integers(1, 6))


@given(warmups(), st.integers(0, 80), st.integers(0, 7), st.integers(0, 3))
def test_the_plan_at_any_step_equals_walking_there(warmup, more, first_step, first_epoch):
    """An epoch ends where the next batch does not fit, and lengths convert back to their steps."""
    setting, batch_size = warmup
    num_sequences = batch_size + more
    levels = warmup_levels(setting, batch_size, mean_length=7.3)
    start = {"first_step": first_step, "first_epoch": first_epoch}
    plan = BatchPlan(num_sequences, batch_size, levels, **start)
    sizes = [size for size, steps in levels for _ in range(steps)] + [batch_size] * 30
    assert all(size % plan.multiple == 0 for size in sizes)
    epoch, consumed, total, reached = first_epoch, 0, 0, Fraction(-1)
    for number, size in enumerate(sizes):
        if consumed + size > num_sequences:
            epoch, consumed = epoch + 1, 0
        found, epochs = plan.at(first_step + number), plan.epochs(first_step + number)
        assert (found.epoch, found.first, found.size) == (epoch, consumed, size)
        assert plan.sequences(first_step + number) == total
        assert reached < epochs
        assert (epochs == epoch - first_epoch) == (consumed == 0)
        assert plan.steps_in_epochs(float(epochs)) == number
        assert plan.steps_in_sequences(total) == number
        consumed, total, reached = consumed + size, total + size, epochs


@given(warmups())
def test_the_size_rises_to_the_batch_in_the_length_that_is_given(warmup):
    setting, batch_size = warmup
    levels = warmup_levels(setting, batch_size, mean_length=7.3)
    assert levels[0] == (setting.from_size, levels[0].steps)
    assert [size for size, _ in levels] == list(
        range(setting.from_size, batch_size, setting.multiple_of)
    )
    if setting.num_steps is not None:
        assert sum(steps for _, steps in levels) == setting.num_steps
        counts = [steps for _, steps in levels]
        assert max(counts) - min(counts) <= 1
    else:
        sequences = sum(size * steps for size, steps in levels)
        needed = setting.num_tokens / 7.3
        assert needed <= sequences < needed + batch_size


def test_lengths_in_epochs_count_with_the_batches_that_an_epoch_has():
    """100 sequences: 4 batches of 10 and 3 of 20 are an epoch, then 5 of 20 are one."""
    setting = BatchSizeWarmup(from_size=10, num_steps=4)
    plan = BatchPlan(100, 20, warmup_levels(setting, 20, 1.0))
    lengths = ScheduleLengths.of(RunConfig(num_epochs=3), plan, mean_length=1)
    assert lengths.num_steps == 7 + 5 + 5
    assert [lengths.epochs(step) for step in (7, 12, 17)] == [1, 2, 3]
    assert lengths.steps(None, 1) == 7
    assert lengths.last_steps(17, None, 2) == 10
    assert [s for s in range(1, 18) if lengths.is_due("1 epoch", s)] == [7, 12, 17]
    assert [s for s in range(1, 18) if lengths.is_due(6, s)] == [6, 12]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"from_size": 8}, "neither num_steps nor num_tokens is given"),
        ({"from_size": 8, "num_steps": 2, "num_tokens": 3}, "both num_steps and num_tokens"),
        ({"from_size": 8, "num_steps": 2, "multiple_of": 3}, "from_size is 8, expected a multiple"),
    ],
)
def test_a_wrong_warmup_is_rejected(values, message):
    with pytest.raises(ValidationError, match=message):
        BatchSizeWarmup(**values)
