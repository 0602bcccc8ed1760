"""DeepSpeed's schedulers: the rates that they use with the blocks converted here."""

import logging

import pytest
import torch
from deepspeed.runtime import lr_schedules

from bertds.config.optimizer_schema import SCHEDULERS, Chosen
from bertds.errors import ConfigError
from bertds.optim.lr_schedules import DEEPSPEEDS_OWN, ScheduleLengths, deepspeed_block, lr_lambda
from tests.optim.test_lr_schedules import LENGTHS, rates_by

TEN_STEPS = ScheduleLengths(10, 10)
WARM = {"warmup_num_steps": 4, "warmup_type": "linear"}


@pytest.fixture(autouse=True)
def _quiet():
    """Silence a warning that DeepSpeed logs for each scheduler."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


def block_of(kind, lr=1.0, lengths=LENGTHS, **params):
    return deepspeed_block(Chosen(type=kind, params=params), lengths, lr)


def rates_of(kind, count, lr=1.0, lengths=LENGTHS, **params):
    """List the rates that DeepSpeed's class uses with the converted block."""
    block = block_of(kind, lr, lengths, **params)
    make = getattr(lr_schedules, block["type"])
    return rates_by(lambda optimizer: make(optimizer, **block["params"]), lr, count)


@pytest.mark.parametrize(
    ("kind", "params", "expected"),
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
def test_the_rates_of_each_scheduler(kind, params, expected):
    """The first two updates use the minimum rate, and the cosine never reaches its peak."""
    rates = rates_of(kind, len(expected), lengths=TEN_STEPS, **params)
    assert rates == pytest.approx(expected, abs=5e-4)


def test_the_peak_is_the_rate_of_the_optimizer_by_default():
    assert max(rates_of("WarmupDecayLR", 10, lr=0.05, lengths=TEN_STEPS, **WARM)) == 0.05
    assert max(rates_of("WarmupLR", 10, lr=0.05, **WARM)) == 0.05
    limited = rates_of("WarmupLR", 10, lr=0.05, warmup_max_lr=0.01, warmup_min_lr=0.005, **WARM)
    assert (limited[0], limited[-1]) == (0.005, 0.01)


def test_lengths_in_epochs_are_converted_to_steps():
    params = {"warmup_epochs": 1, "total_epochs": 3, "warmup_type": "linear"}
    converted = block_of("WarmupCosineLR", **params)["params"]
    assert (converted["warmup_num_steps"], converted["total_num_steps"]) == (10, 30)
    assert not [key for key in converted if key.endswith("_epochs")]
    assert "total_num_steps" not in block_of("WarmupLR", **WARM)["params"]


def test_a_warm_up_of_0_epochs_is_the_shortest_one():
    rates = rates_of("WarmupLR", 5, warmup_epochs=0, warmup_type="linear")
    assert rates == [0, 0, 0.5, 1, 1]


def test_one_cycle():
    params = {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0, "cycle_first_step_size": 3}
    rates = rates_of("OneCycle", 8, **params, cycle_momentum=False)
    assert rates == pytest.approx([0.1, 0.4, 0.7, 1.0, 0.7, 0.4, 0.1, 0.1])


def test_one_cycle_changes_the_betas_only_with_momentum():
    params = {"cycle_min_lr": 0.1, "cycle_max_lr": 1.0}
    for is_on, betas in ((False, (0.9, 0.999)), (True, (0.8, 0.99))):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        block = block_of("OneCycle", **params, cycle_momentum=is_on)
        lr_schedules.OneCycle(optimizer, **block["params"])
        assert optimizer.param_groups[0]["betas"] == betas


def test_each_scheduler_is_implemented_here_or_in_deepspeed():
    implemented_here = {
        "WarmupLinearLR": {"warmup_epochs": 1},
        "WarmupStableDecayLR": {"warmup_epochs": 1, "decay_epochs": 1},
        "WarmupExponentialLR": {"warmup_epochs": 1, "gamma": 0.9},
        "CosineAnnealingWarmRestarts": {"T_0_epochs": 1},
    }
    assert set(SCHEDULERS) == {*implemented_here, *DEEPSPEEDS_OWN}
    for kind, params in implemented_here.items():
        assert lr_lambda(Chosen(type=kind, params=params), LENGTHS, 1.0)(0) > 0
    for kind in DEEPSPEEDS_OWN:
        assert hasattr(lr_schedules, kind)


@pytest.mark.parametrize("kind", ["WarmupDecayLR", "WarmupCosineLR"])
def test_a_warm_up_longer_than_the_schedule_is_rejected(kind):
    with pytest.raises(ConfigError, match="the warm-up takes 300 steps, more than .* 200"):
        block_of(kind, warmup_type="linear", warmup_epochs=30)
