"""The schedules implemented here: at their corners, and against torch's where torch has one."""

import math
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedules

from bertds.config.optimizer_schema import Chosen
from bertds.errors import ConfigError
from bertds.optim.lr_schedules import (
    ScheduleLengths,
    constant,
    cosine_restarts,
    exponential,
    linear,
    lr_lambda,
    stable_decay,
    torch_scheduler,
)

STEPS_PER_EPOCH = 10
LENGTHS = ScheduleLengths(STEPS_PER_EPOCH, 200)
warmups = st.integers(0, 40)
steps = st.integers(0, 500)
shares = st.floats(0, 1)


def factor(kind, lr=1.0, **params):
    return lr_lambda(Chosen(type=kind, params=params), LENGTHS, lr)


def rates_by(make_scheduler, lr, count):
    """List the rates that `count` updates of a torch optimizer use."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_without_scheduler_the_rate_is_constant():
    assert lr_lambda(None, LENGTHS, 1e-3) is constant
    assert {constant(step) for step in range(1000)} == {1.0}


def test_warm_up_and_linear_decay():
    rate = factor("WarmupLinearLR", warmup_num_steps=4, total_num_steps=10)
    assert rate(0) == 0.25  # no update is made at rate 0
    assert rate(3) == 1  # the last step of the warm-up
    assert rate(4) == 1  # the first after it
    assert rate(5) == 5 / 6
    assert rate(9) == 1 / 6  # the last step still learns
    assert rate(10) == rate(1000) == 0


def test_linear_decay_to_a_floor():
    rate = factor("WarmupLinearLR", warmup_num_steps=1, total_num_steps=5, min_ratio=0.2)
    assert [rate(step) for step in range(7)] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_a_schedule_is_as_long_as_the_run_by_default():
    assert factor("WarmupLinearLR", warmup_num_steps=10)(199) == 1 / 190
    assert factor("WarmupLinearLR", warmup_num_steps=10, total_epochs=3)(29) == 1 / 20
    assert factor("WarmupLinearLR", warmup_epochs=0.5)(4) == 1
    assert factor("WarmupLinearLR", warmup_epochs=0.5)(3) == 0.8


def test_without_warm_up_the_first_step_is_at_the_peak():
    assert factor("WarmupLinearLR", warmup_epochs=0)(0) == 1
    assert factor("WarmupExponentialLR", warmup_epochs=0, gamma=0.5)(0) == 1
    assert factor("WarmupStableDecayLR", warmup_epochs=0, decay_epochs=1)(0) == 1


@pytest.mark.parametrize(
    ("kind", "middle"), [("linear", 0.5), ("1-sqrt", pytest.approx(1 - math.sqrt(0.5)))]
)
def test_warm_up_stable_decay(kind, middle):
    rate = factor(
        "WarmupStableDecayLR",
        warmup_num_steps=10,
        total_num_steps=100,
        decay_num_steps=20,
        decay_type=kind,
    )
    assert rate(0) == 0.1
    assert {rate(step) for step in range(9, 81)} == {1.0}  # warm from step 9, stable to step 80
    assert rate(81) < 1
    assert rate(90) == middle
    assert rate(99) > 0
    assert rate(100) == rate(1000) == 0


def test_stable_decay_to_a_floor():
    rate = factor("WarmupStableDecayLR", warmup_epochs=1, decay_epochs=2, min_ratio=0.25)
    assert (rate(9), rate(180), rate(200)) == (1, 1, 0.25)
    assert rate(190) == pytest.approx(0.25 + 0.75 * (1 - math.sqrt(0.5)))


@pytest.mark.parametrize("stable", [{"stable_num_steps": 70}, {"stable_epochs": 7}])
def test_the_decay_may_begin_at_a_step_of_its_own(stable):
    """It is as long as what is left of the schedule, so its first step is the same at any length."""
    for total in (81, 100, 200):
        length = {} if total == 200 else {"total_num_steps": total}
        begins = factor("WarmupStableDecayLR", warmup_num_steps=10, **stable, **length)
        lasts = factor(
            "WarmupStableDecayLR", warmup_num_steps=10, decay_num_steps=total - 80, **length
        )
        assert [begins(step) for step in range(201)] == [lasts(step) for step in range(201)]
        assert (begins(80), begins(total)) == (1, 0)
        assert begins(81) < 1


def test_a_stable_part_leaves_a_step_for_the_decay_and_stands_alone():
    with pytest.raises(ConfigError, match="stable part and a decay of one step takes 201 steps"):
        factor("WarmupStableDecayLR", warmup_epochs=1, stable_epochs=19)
    for params in ({}, {"decay_num_steps": 5, "stable_num_steps": 5}):
        with pytest.raises(ValueError, match="give one of decay_num_steps, decay_epochs, stable_n"):
            factor("WarmupStableDecayLR", warmup_epochs=1, **params)


def test_exponential_decay_in_a_staircase():
    rate = factor("WarmupExponentialLR", warmup_epochs=1, gamma=0.96)
    assert (rate(0), rate(4), rate(9)) == (0.1, 0.5, 1)
    assert rate(10) == rate(19) == 1  # gamma ** (epoch - 1) in the second epoch
    assert rate(20) == rate(29) == 0.96
    assert rate(30) == pytest.approx(0.96**2)
    assert rate(1500) == 0.96**149


def test_continuous_exponential_decay():
    rate = factor("WarmupExponentialLR", warmup_epochs=1, gamma=0.96, staircase=False)
    assert rate(9) == rate(10) == 1
    assert rate(15) == pytest.approx(0.96**0.5)
    for epoch in (2, 3, 50):  # equal to the staircase at the start of an epoch
        assert rate(epoch * STEPS_PER_EPOCH) == pytest.approx(0.96 ** (epoch - 1))


def test_exponential_decay_by_other_periods():
    rate = factor("WarmupExponentialLR", warmup_num_steps=5, gamma=0.5, decay_epochs=2)
    assert [rate(step) for step in (4, 5, 24, 25, 44, 45)] == [1, 1, 1, 0.5, 0.5, 0.25]


def test_cosine_restarts_after_5_15_35_and_75_epochs():
    rate = factor("CosineAnnealingWarmRestarts", T_0_epochs=5, T_mult=2, eta_min=0.02)
    for start, end in ((0, 5), (5, 15), (15, 35), (35, 75), (75, 155)):
        first, last = start * STEPS_PER_EPOCH, end * STEPS_PER_EPOCH - 1
        assert rate(first) == 1
        middle = (first + last + 1) // 2
        assert rate(middle) == pytest.approx(0.51)  # half of the way down
        assert 0.02 < rate(last) < 0.03
        assert rate(last) < rate(last - 1)
        assert rate(last + 1) == 1


def test_cosine_restarts_of_equal_length():
    rate = factor("CosineAnnealingWarmRestarts", T_0=4)
    assert [rate(step) for step in range(9)] == pytest.approx(
        [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)] * 2 + [1]
    )


def test_each_cycle_warms_up_to_a_lower_peak():
    params = {"T_0": 6, "T_mult": 2, "warmup_num_steps": 2, "gamma": 0.5, "eta_min": 0.1}
    rate = factor("CosineAnnealingWarmRestarts", **params)
    starts, peaks = (0, 6, 18, 42), (1, 0.5, 0.25, 0.125)
    for start, end, peak in zip(starts, (6, 18, 42, 90), peaks, strict=True):
        length = end - start
        expected = [
            0.1 + (peak - 0.1) * (1 + math.cos(math.pi * step / (length - 2))) / 2
            for step in range(length - 2)
        ]
        warm_up = [0.1 + (peak - 0.1) / 2, peak]
        assert [rate(step) for step in range(start, end)] == pytest.approx(warm_up + expected)
    assert rate(90 + 1) == rate(90 + 50) == 0.1  # a peak is never below eta_min
    epochs = {"T_0_epochs": 3, "warmup_epochs": 1, "gamma": 0.9}
    rate = factor("CosineAnnealingWarmRestarts", **epochs)
    assert [rate(step) for step in (0, 9, 10, 30, 39)] == pytest.approx([0.1, 1, 1, 0.09, 0.9])


@pytest.mark.parametrize("warmup", [{"warmup_num_steps": 30}, {"warmup_epochs": 3}])
def test_a_warm_up_as_long_as_the_first_cycle_is_rejected(warmup):
    with pytest.raises(ConfigError, match="a cycle takes 30 steps, the first cycle only 30"):
        factor("CosineAnnealingWarmRestarts", T_0_epochs=3, **warmup)


def test_eta_min_is_a_rate_and_not_a_factor():
    rate = factor("CosineAnnealingWarmRestarts", lr=5e-4, T_0=1000, eta_min=1e-5)
    assert rate(999) * 5e-4 == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"warmup_num_steps": 11, "total_num_steps": 10}, "the warm-up takes 11 steps"),
        ({"warmup_epochs": 30}, "the warm-up takes 300 steps, more than the whole schedule's 200"),
    ],
)
def test_a_warm_up_longer_than_the_schedule_is_rejected(params, message):
    with pytest.raises(ConfigError, match=message):
        factor("WarmupLinearLR", **params)


def test_warm_up_and_decay_longer_than_the_schedule_are_rejected():
    with pytest.raises(ConfigError, match="warm-up and decay takes 210 steps"):
        factor("WarmupStableDecayLR", warmup_epochs=1, decay_epochs=20)


@given(steps, warmups, st.integers(1, 300), shares)
def test_linear_stays_in_bounds_and_falls_after_the_warm_up(step, warmup, total, minimum):
    assume(warmup <= total)
    rate = partial(linear, warmup=warmup, total=total, minimum=minimum)
    assert min(minimum, 1 / max(1, warmup)) <= rate(step) <= 1
    check_monotonic(rate, step, warmup)


@given(steps, warmups, st.integers(1, 100), st.integers(0, 300), st.booleans(), shares)
def test_stable_decay_stays_in_bounds_and_falls(step, warmup, decay, stable, root, minimum):
    rate = partial(
        stable_decay,
        warmup=warmup,
        decay=decay,
        total=warmup + stable + decay,
        root=root,
        minimum=minimum,
    )
    assert min(minimum, 1 / max(1, warmup)) <= rate(step) <= 1
    check_monotonic(rate, step, warmup)
    if warmup <= step <= warmup + stable:
        assert rate(step) == 1


@given(steps, warmups, st.floats(0.01, 1), st.integers(1, 50), st.booleans())
def test_exponential_stays_in_bounds_and_falls(step, warmup, gamma, period, staircase):
    rate = partial(exponential, warmup=warmup, gamma=gamma, period=period, staircase=staircase)
    assert 0 <= rate(step) <= 1
    check_monotonic(rate, step, warmup)
    if step >= warmup:
        assert rate(step + period) == pytest.approx(gamma * rate(step))


def check_monotonic(rate, step, warmup):
    """The rate rises up to the last step of the warm-up, and does not rise after it."""
    if step + 1 < warmup:
        assert rate(step) < rate(step + 1)
    else:
        assert rate(step) >= rate(step + 1)


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 4), shares)
def test_cosine_stays_in_bounds_and_falls_except_at_restarts(step, first, multiplier, minimum):
    rate = partial(cosine_restarts, first=first, multiplier=multiplier, minimum=minimum)
    assert minimum <= rate(step) <= 1
    if rate(step + 1) > rate(step) + 1e-9:
        assert rate(step + 1) == 1


@given(st.integers(1, 12), st.integers(1, 3), st.floats(1e-5, 1e-1), st.floats(0, 1), st.data())
@settings(max_examples=50)
def test_cosine_restarts_equal_those_of_torch(first, multiplier, lr, share, data):
    floor = share * lr
    rate = factor("CosineAnnealingWarmRestarts", lr=lr, T_0=first, T_mult=multiplier, eta_min=floor)
    expected = rates_by(
        lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, first, multiplier, floor), lr, 60
    )
    step = data.draw(st.integers(0, 59))
    assert lr * rate(step) == pytest.approx(expected[step])


def test_linear_decay_equals_that_of_torch():
    rate = partial(linear, warmup=0, total=30, minimum=0.1)
    expected = rates_by(lambda o: torch_schedules.LinearLR(o, 1.0, 0.1, 30), 0.5, 40)
    assert [0.5 * rate(step) for step in range(40)] == pytest.approx(expected)


def test_the_warm_up_equals_that_of_torch():
    rate = partial(linear, warmup=10, total=10**9, minimum=1.0)
    expected = rates_by(lambda o: torch_schedules.LinearLR(o, 0.1, 1.0, 9), 0.5, 20)
    assert [0.5 * rate(step) for step in range(20)] == pytest.approx(expected)


def test_exponential_decay_equals_step_lr_and_exponential_lr_of_torch():
    staircase = partial(exponential, warmup=0, gamma=0.9, period=7, staircase=True)
    expected = rates_by(lambda o: torch_schedules.StepLR(o, 7, 0.9), 0.5, 40)
    assert [0.5 * staircase(step) for step in range(40)] == pytest.approx(expected)
    curve = partial(exponential, warmup=0, gamma=0.9, period=1, staircase=False)
    expected = rates_by(lambda o: torch_schedules.ExponentialLR(o, 0.9), 0.5, 40)
    assert [0.5 * curve(step) for step in range(40)] == pytest.approx(expected)


def test_the_adapter_uses_factor_s_at_step_s():
    rate = factor("WarmupLinearLR", warmup_num_steps=4, total_num_steps=10)
    used = rates_by(lambda o: torch_scheduler(o, rate), 0.5, 12)
    assert used == [0.5 * rate(step) for step in range(12)]


def test_the_adapter_resumes_from_its_saved_state():
    rate = factor("WarmupExponentialLR", warmup_epochs=1, gamma=0.9)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = torch_scheduler(optimizer, rate)
    for _ in range(37):
        optimizer.step()
        scheduler.step()
    again = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    resumed = torch_scheduler(again, rate)
    resumed.load_state_dict(scheduler.state_dict())
    again.step()
    resumed.step()
    assert again.param_groups[0]["lr"] == 0.5 * rate(38)
