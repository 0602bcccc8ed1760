"""Each schedule at its corners, against torch's where torch has it, and DeepSpeed's run for real."""

import logging
import math
from functools import partial

import pytest
import torch
from deepspeed.runtime import lr_schedules
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedules

from bertds.config.optimizer_schema import SCHEDULERS, Chosen
from bertds.errors import ConfigError
from bertds.optim.lr_schedules import (
    DEEPSPEEDS_OWN,
    ScheduleLengths,
    constant,
    cosine_restarts,
    deepspeed_block,
    exponential,
    linear,
    lr_lambda,
    stable_decay,
    torch_scheduler,
)

STEPS = 10  # of an epoch
LENGTHS = ScheduleLengths(STEPS, 200)
warmups = st.integers(0, 40)
steps = st.integers(0, 500)
shares = st.floats(0, 1)


def chosen(kind, **params):
    return Chosen(type=kind, params=params)


def factor(kind, lengths=LENGTHS, lr=1.0, **params):
    return lr_lambda(chosen(kind, **params), lengths, lr)


def rates_by(make_scheduler, lr, count):
    """The rates that `count` updates of a torch optimizer really use."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_no_scheduler_is_a_constant():
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


def test_a_schedule_is_as_long_as_the_run_unless_it_says_otherwise():
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


def test_warm_up_and_exponential_decay_in_stairs():
    rate = factor("WarmupExponentialLR", warmup_epochs=1, gamma=0.96)
    assert (rate(0), rate(4), rate(9)) == (0.1, 0.5, 1)
    assert rate(10) == rate(19) == 1  # the record's gamma ** (epoch - 1) in its second epoch
    assert rate(20) == rate(29) == 0.96
    assert rate(30) == pytest.approx(0.96**2)
    assert rate(1500) == 0.96**149


def test_warm_up_and_exponential_decay_in_a_curve():
    rate = factor("WarmupExponentialLR", warmup_epochs=1, gamma=0.96, staircase=False)
    assert rate(9) == rate(10) == 1
    assert rate(15) == pytest.approx(0.96**0.5)
    for epoch in (2, 3, 50):  # both meet where an epoch begins
        assert rate(epoch * STEPS) == pytest.approx(0.96 ** (epoch - 1))


def test_exponential_decay_by_other_periods():
    rate = factor("WarmupExponentialLR", warmup_num_steps=5, gamma=0.5, decay_epochs=2)
    assert [rate(step) for step in (4, 5, 24, 25, 44, 45)] == [1, 1, 1, 0.5, 0.5, 0.25]


def test_cosine_restarts_after_5_15_35_and_75_epochs():
    rate = factor("CosineAnnealingWarmRestarts", T_0_epochs=5, T_mult=2, eta_min=0.02)
    for start, end in ((0, 5), (5, 15), (15, 35), (35, 75), (75, 155)):
        first, last = start * STEPS, end * STEPS - 1
        assert rate(first) == 1
        assert rate((first + last + 1) // 2) == pytest.approx(0.51)  # half-way, half-way down
        assert 0.02 < rate(last) < 0.03
        assert rate(last) < rate(last - 1)
        assert rate(last + 1) == 1


def test_cosine_restarts_of_equal_length():
    rate = factor("CosineAnnealingWarmRestarts", T_0=4)
    assert [rate(step) for step in range(9)] == pytest.approx(
        [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)] * 2 + [1]
    )


def test_a_floor_is_a_rate_not_a_share():
    rate = factor("CosineAnnealingWarmRestarts", lr=5e-4, T_0=1000, eta_min=1e-5)
    assert rate(999) * 5e-4 == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"warmup_num_steps": 11, "total_num_steps": 10}, "the warm-up takes 11 steps"),
        ({"warmup_epochs": 30}, "the warm-up takes 300 steps, more than the whole schedule's 200"),
    ],
)
@pytest.mark.parametrize("kind", ["WarmupLinearLR", "WarmupDecayLR", "WarmupCosineLR"])
def test_a_warm_up_longer_than_the_whole_is_refused(kind, params, what):
    with pytest.raises(ConfigError, match=what):
        if kind in DEEPSPEEDS_OWN:
            deepspeed_block(chosen(kind, warmup_type="linear", **params), LENGTHS, 1.0)
        else:
            factor(kind, **params)


def test_warm_up_and_decay_longer_than_the_whole_are_refused():
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
    """Up to the last step of the warm-up it rises, from there on it does not."""
    if step + 1 < warmup:
        assert rate(step) < rate(step + 1)
    else:
        assert rate(step) >= rate(step + 1)


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 4), shares)
def test_cosine_stays_in_bounds_and_falls_but_where_it_restarts(step, first, multiplier, minimum):
    rate = partial(cosine_restarts, first=first, multiplier=multiplier, minimum=minimum)
    assert minimum <= rate(step) <= 1
    if rate(step + 1) > rate(step) + 1e-9:
        assert rate(step + 1) == 1


@given(st.integers(1, 12), st.integers(1, 3), st.floats(1e-5, 1e-1), st.floats(0, 1), st.data())
@settings(deadline=None, max_examples=50)
def test_cosine_restarts_are_torchs(first, multiplier, lr, share, data):
    floor = share * lr
    rate = factor("CosineAnnealingWarmRestarts", lr=lr, T_0=first, T_mult=multiplier, eta_min=floor)
    wanted = rates_by(
        lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, first, multiplier, floor), lr, 60
    )
    step = data.draw(st.integers(0, 59))
    assert lr * rate(step) == pytest.approx(wanted[step])


def test_linear_decay_is_torchs():
    rate = partial(linear, warmup=0, total=30, minimum=0.1)
    wanted = rates_by(lambda o: torch_schedules.LinearLR(o, 1.0, 0.1, 30), 0.5, 40)
    assert [0.5 * rate(step) for step in range(40)] == pytest.approx(wanted)


def test_the_warm_up_is_torchs():
    rate = partial(linear, warmup=10, total=10**9, minimum=1.0)
    wanted = rates_by(lambda o: torch_schedules.LinearLR(o, 0.1, 1.0, 9), 0.5, 20)
    assert [0.5 * rate(step) for step in range(20)] == pytest.approx(wanted)


def test_stairs_are_torchs_step_lr_and_the_curve_its_exponential_lr():
    stairs = partial(exponential, warmup=0, gamma=0.9, period=7, staircase=True)
    wanted = rates_by(lambda o: torch_schedules.StepLR(o, 7, 0.9), 0.5, 40)
    assert [0.5 * stairs(step) for step in range(40)] == pytest.approx(wanted)
    curve = partial(exponential, warmup=0, gamma=0.9, period=1, staircase=False)
    wanted = rates_by(lambda o: torch_schedules.ExponentialLR(o, 0.9), 0.5, 40)
    assert [0.5 * curve(step) for step in range(40)] == pytest.approx(wanted)


def test_the_adapter_uses_factor_s_at_step_s():
    rate = factor("WarmupLinearLR", warmup_num_steps=4, total_num_steps=10)
    used = rates_by(lambda o: torch_scheduler(o, rate), 0.5, 12)
    assert used == [0.5 * rate(step) for step in range(12)]


def test_the_adapter_goes_on_from_its_saved_state():
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


@pytest.fixture(autouse=True)
def _quiet():
    """DeepSpeed warns at the start of each of its schedules."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def deepspeeds(kind, count, lr=1.0, lengths=LENGTHS, **params):
    """The rates that DeepSpeed's class uses, made from the block that a case's becomes."""
    block = deepspeed_block(chosen(kind, **params), lengths, lr)
    make = getattr(lr_schedules, block["type"])
    return rates_by(lambda optimizer: make(optimizer, **block["params"]), lr, count)


WARM = {"warmup_num_steps": 4, "warmup_type": "linear"}
TEN = ScheduleLengths(STEPS, 10)


@pytest.mark.parametrize(
    ("kind", "params", "wanted"),
    [
        ("WarmupLR", WARM, [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]),
        ("WarmupLR", {**WARM, "warmup_type": "log"}, [0, 0, 0.5, 0.792, 1, 1]),
        (
            "WarmupDecayLR",
            WARM,
            [0, 0, 0.25, 0.5, 0.75, 1, 0.833, 0.667, 0.5, 0.333, 0.167, 0, 0],
        ),
        (
            "WarmupCosineLR",
            WARM,
            [0, 0, 0.25, 0.5, 0.75, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0001, 0.0001],
        ),
        ("WarmupCosineLR", {**WARM, "warmup_min_ratio": 0.5}, [0, 0.5, 0.625, 0.75, 0.875, 0.933]),
    ],
)
def test_the_rates_of_deepspeeds_schedules(kind, params, wanted):
    """The first two updates run at the minimum rate, and the cosine never reaches its peak."""
    rates = deepspeeds(kind, len(wanted), lengths=TEN, **params)
    assert rates == pytest.approx(wanted, abs=5e-4)


def test_deepspeeds_decay_starts_from_the_optimizers_rate_not_from_a_hidden_one():
    assert max(deepspeeds("WarmupDecayLR", 10, lr=0.05, lengths=TEN, **WARM)) == 0.05
    assert max(deepspeeds("WarmupLR", 10, lr=0.05, **WARM)) == 0.05
    limited = deepspeeds("WarmupLR", 10, lr=0.05, warmup_max_lr=0.01, warmup_min_lr=0.005, **WARM)
    assert (limited[0], limited[-1]) == (0.005, 0.01)


def test_deepspeeds_lengths_may_be_epochs():
    block = deepspeed_block(
        chosen("WarmupCosineLR", warmup_epochs=1, total_epochs=3, warmup_type="linear"),
        LENGTHS,
        1.0,
    )
    assert block["params"]["warmup_num_steps"] == 10
    assert block["params"]["total_num_steps"] == 30
    assert not [key for key in block["params"] if key.endswith("_epochs")]
    assert (
        "total_num_steps" not in deepspeed_block(chosen("WarmupLR", **WARM), LENGTHS, 1)["params"]
    )


def test_deepspeeds_warm_up_of_nothing_is_its_shortest():
    rates = deepspeeds("WarmupLR", 5, warmup_epochs=0, warmup_type="linear")
    assert rates == [0, 0, 0.5, 1, 1]


def test_deepspeeds_one_cycle():
    params = {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0, "cycle_first_step_size": 3}
    rates = deepspeeds("OneCycle", 8, **params, cycle_momentum=False)
    assert rates == pytest.approx([0.1, 0.4, 0.7, 1.0, 0.7, 0.4, 0.1, 0.1])


def test_one_cycle_leaves_the_betas_alone_only_without_momentum():
    params = {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0}
    for is_on, betas in ((False, (0.9, 0.999)), (True, (0.8, 0.99))):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        block = deepspeed_block(chosen("OneCycle", **params, cycle_momentum=is_on), LENGTHS, 1.0)
        lr_schedules.OneCycle(optimizer, **block["params"])
        assert optimizer.param_groups[0]["betas"] == betas


def test_each_scheduler_is_either_ours_or_deepspeeds():
    ours = {
        "WarmupLinearLR": {"warmup_epochs": 1},
        "WarmupStableDecayLR": {"warmup_epochs": 1, "decay_epochs": 1},
        "WarmupExponentialLR": {"warmup_epochs": 1, "gamma": 0.9},
        "CosineAnnealingWarmRestarts": {"T_0_epochs": 1},
    }
    assert set(SCHEDULERS) == {*ours, *DEEPSPEEDS_OWN}
    for kind, params in ours.items():
        assert factor(kind, **params)(0) > 0
    for kind in DEEPSPEEDS_OWN:
        assert hasattr(lr_schedules, kind)
