"""Settings that contradict one another, or the length of the run, are found before the start."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertds.config.case import Case, list_arms, read_case
from bertds.config.consistency import Findings, check_consistency
from bertds.config.optimizer_schema import SCHEDULERS, Chosen
from bertds.config.schedule_fit import check_schedule
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import RunConfig
from bertds.optim.lr_schedules import deepspeed_block, lr_lambda
from bertds.training.case_check import check_cases
from tests.helpers.in_process_training import BASE
from tests.helpers.launching import ROOT

CASES = [
    arm
    for path in sorted((ROOT / "ds_configs").glob("*.json"))
    for arm in list_arms(path)
    if arm.path == path
]
LINEAR = {"warmup_num_steps": 2, "warmup_type": "linear"}
CYCLE = {"cycle_min_lr": 1e-5, "cycle_momentum": False, "cycle_first_step_size": 5}


def case_of(tmp_path: Path, scheduler: dict[str, Any] | None, **changes: Any) -> Case:
    """A case of 12 steps at a rate of 2e-3."""
    content = {**BASE, **changes, "scheduler": scheduler}
    if scheduler is None:
        del content["scheduler"]
    path = tmp_path / "case.json"
    path.write_text(json.dumps(content))
    return read_case(path, "main")


@pytest.mark.parametrize("arm", CASES, ids=lambda arm: arm.same_as)
def test_a_shipped_case_is_consistent(arm):
    assert check_cases([(arm.path, arm.run_arm)]) == []


@pytest.mark.parametrize(
    ("kind", "key", "params"),
    [
        ("WarmupLR", "warmup_max_lr", LINEAR),
        ("WarmupDecayLR", "warmup_max_lr", LINEAR),
        ("OneCycle", "cycle_max_lr", CYCLE),
    ],
)
def test_the_peak_rate_of_a_scheduler_is_the_optimizers(tmp_path, kind, key, params):
    def findings(**given: float) -> Findings:
        case = case_of(tmp_path, {"type": kind, "params": {**params, **given}})
        return check_consistency(case.resolved, None)

    (error,) = findings(**{key: 3e-5}).errors
    assert f"scheduler.params.{key} is 3e-05, but optimizer.params.lr is 0.002" in error
    assert not findings(**{key: 2e-3}).errors
    assert not findings().errors
    block = deepspeed_block(Chosen(type=kind, params=params), ScheduleLengths(5, 10), 2e-3)
    assert block["params"][key] == 2e-3
    (error,) = findings(**{key.replace("max", "min"): 0.1}).errors
    assert "_min_lr is 0.1, above optimizer.params.lr 0.002" in error


def test_other_values_that_are_stated_twice(tmp_path):
    cycle = {"type": "OneCycle", "params": {**CYCLE, "cycle_momentum": True, "decay_lr_rate": 0.1}}
    betas, decay = check_consistency(case_of(tmp_path, cycle).resolved, None).errors
    assert "optimizer.params.betas is [0.9, 0.98]" in betas
    assert "scheduler.params.cycle_momentum is true" in betas
    assert "decay_lr_rate is 0.1, but scheduler.params.decay_step_size is 0" in decay
    fp16 = {"enabled": True, "loss_scale": 128, "initial_scale_power": 8}
    (error,) = check_consistency(case_of(tmp_path, None, fp16=fp16).resolved, None).errors
    assert "fp16.loss_scale is 128, a fixed scale, but fp16.initial_scale_power" in error


def test_keys_without_effect_are_warned_of(tmp_path):
    zero = {
        "stage": 1,
        "zero_quantized_weights": True,
        "zero_quantized_gradients": False,
        "zero_hpz_partition_size": 2,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    case = case_of(
        tmp_path,
        None,
        zero_optimization=zero,
        communication_data_type="fp16",
        flops_profiler={"enabled": True, "recompute_fwd_factor": 1.0},
        prescale_gradients=True,
        gradient_predivide_factor=8,
    )
    found = check_consistency(case.resolved, None)
    assert not found.errors
    named = [warning.split()[0] for warning in found.warnings]
    assert named == [
        "zero_optimization.zero_quantized_weights",
        "zero_optimization.zero_hpz_partition_size",
        "zero_optimization.stage3_gather_16bit_weights_on_model_save",
        "gradient_predivide_factor",
        "flops_profiler.recompute_fwd_factor",
        "communication_data_type",
    ]


# Scheduler, its parameters, then the error or the warning of a run of 12 steps, 5 to an epoch.
FITS = [
    ("WarmupLR", {"warmup_num_steps": 13}, "the warm-up takes 13 steps (scheduler", ""),
    ("WarmupLR", {"warmup_epochs": 3}, "15 steps (scheduler.params.warmup_epochs 3", ""),
    ("WarmupLR", {"warmup_num_steps": 12}, "", "the run ends with it"),
    ("WarmupLR", {"warmup_num_steps": 11}, "", ""),
    ("WarmupExponentialLR", {"warmup_num_steps": 13, "gamma": 1}, "it would never reach", ""),
    ("WarmupExponentialLR", {"warmup_num_steps": 8, "gamma": 0.5}, "", "it never decays"),
    ("WarmupExponentialLR", {"warmup_num_steps": 2, "gamma": 0.5}, "", ""),
    ("WarmupExponentialLR", {"warmup_num_steps": 2, "gamma": 1e-4}, "", "falls below 1e-06"),
    ("WarmupDecayLR", {"warmup_num_steps": 2, "total_num_steps": 11}, "on at rate 0", ""),
    ("WarmupDecayLR", {"warmup_num_steps": 2, "total_num_steps": 12}, "", ""),
    ("WarmupDecayLR", {"warmup_num_steps": 2, "total_num_steps": 24}, "", "at 50% of the schedule"),
    (
        "WarmupDecayLR",
        {"warmup_num_steps": 14, "total_num_steps": 24},
        "",
        "it ends within the warm-up, at",
    ),
    ("WarmupCosineLR", {"warmup_num_steps": 2, "total_epochs": 1}, "", "trains on at 0.0001 of"),
    (
        "WarmupCosineLR",
        {"warmup_num_steps": 2, "total_num_steps": 5, "cos_min_ratio": 0},
        "after 5 steps (scheduler.params.total_num_steps 5), but the run has 12 steps (run.max_s",
        "",
    ),
    ("WarmupLinearLR", {"warmup_num_steps": 2, "total_num_steps": 5}, "on at rate 0", ""),
    (
        "WarmupLinearLR",
        {"warmup_num_steps": 2, "total_num_steps": 5, "min_ratio": 0.1},
        "",
        "at 0.",
    ),
    (
        "WarmupStableDecayLR",
        {"warmup_num_steps": 1, "decay_num_steps": 2, "total_num_steps": 5},
        "on at rate 0",
        "",
    ),
    ("CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": 2}, "", ""),
    ("CosineAnnealingWarmRestarts", {"T_0": 6}, "", ""),
    ("CosineAnnealingWarmRestarts", {"T_0": 5}, "", "cycles end after 10 steps or 15 steps"),
    ("CosineAnnealingWarmRestarts", {"T_0_epochs": 4}, "", "cycles end after 20 steps"),
    ("OneCycle", {"cycle_first_step_size": 12}, "it would never fall", ""),
    ("OneCycle", {"cycle_first_step_size": 7}, "", "ends within the cycle"),
    ("OneCycle", {"cycle_first_step_size": 6}, "", ""),
    ("OneCycle", {"cycle_first_step_size": 5}, "", "on at scheduler.params.cycle_min_lr 1e-05"),
    ("OneCycle", {"cycle_first_step_size": 5, "cycle_min_lr": 0}, "on at rate 0", ""),
    (
        "OneCycle",
        {"cycle_first_step_size": 5, "decay_lr_rate": 1, "decay_step_size": 1},
        "",
        "",
    ),
]


@pytest.mark.parametrize(
    ("scheduler", "consequence"),
    [
        (SCHEDULERS["WarmupLR"].model_validate(LINEAR | {"warmup_num_steps": 13}), "never reach"),
        (
            SCHEDULERS["OneCycle"].model_validate(CYCLE | {"cycle_first_step_size": 12}),
            "never fall",
        ),
    ],
)
def test_a_trial_of_a_few_steps_is_only_warned(scheduler, consequence):
    """`max_steps` cuts the epochs of the file short. Without epochs, the same is an error."""
    lengths = ScheduleLengths(5, 12)
    errors, (warning,) = check_schedule(scheduler, RunConfig(max_steps=12, num_epochs=9), lengths)
    assert not errors and consequence in warning
    (error,), _ = check_schedule(scheduler, RunConfig(max_steps=12), lengths)
    assert consequence in error
    (error,), _ = check_schedule(scheduler, RunConfig(num_epochs=2.4, max_steps=20), lengths)
    assert consequence in error


@pytest.mark.parametrize(("kind", "params", "error", "warning"), FITS)
def test_a_schedule_fits_its_run(kind, params, error, warning):
    defaults = {
        name: value for name, value in (LINEAR | CYCLE).items() if name != "warmup_num_steps"
    }
    block = SCHEDULERS[kind]
    known = {name: value for name, value in defaults.items() if name in block.model_fields}
    scheduler = block.model_validate(known | params)
    errors, warnings = check_schedule(scheduler, RunConfig(max_steps=12), ScheduleLengths(5, 12))
    for expected, found in ((error, errors), (warning, warnings)):
        assert len(found) == bool(expected)
        assert all(expected in text for text in found)


@given(
    warmup=st.integers(1, 40),
    total=st.integers(1, 40),
    steps=st.integers(1, 40),
    minimum=st.sampled_from([0.0, 0.25]),
)
def test_without_a_finding_the_rate_rises_to_its_peak_and_is_never_0(warmup, total, steps, minimum):
    """And with an error one of both is wrong."""
    params = {"warmup_num_steps": warmup, "total_num_steps": total, "min_ratio": minimum}
    block = SCHEDULERS["WarmupLinearLR"].model_validate(params)
    lengths = ScheduleLengths(1, steps)
    errors, warnings = check_schedule(block, RunConfig(max_steps=steps), lengths)
    if warmup > total:
        return  # rejected when the schedule is built
    factor = lr_lambda(Chosen(type="WarmupLinearLR", params=params), lengths, 1.0)
    rates = [factor(step) for step in range(steps)]
    if not errors:
        assert min(rates) > 0
    if not errors and not warnings:
        assert max(rates) == 1
        assert rates[-1] < 1
    if errors:
        assert 0 in rates


@pytest.mark.parametrize(
    ("run", "params", "is_known"),
    [
        ({"max_steps": 5}, {"warmup_num_steps": 6}, True),
        ({"num_epochs": 5}, {"warmup_epochs": 6}, True),
        ({"max_steps": 5}, {"warmup_epochs": 6}, False),
        ({"num_epochs": 5}, {"warmup_num_steps": 6}, False),
        ({"num_epochs": 5, "max_steps": 5}, {"warmup_num_steps": 6}, False),
    ],
)
def test_without_data_only_lengths_in_one_unit_are_compared(tmp_path, run, params, is_known):
    bertds = {**BASE["bertds"], "run": run}
    scheduler = {"type": "WarmupLR", "params": {**params, "warmup_type": "linear"}}
    errors = check_consistency(case_of(tmp_path, scheduler, bertds=bertds).resolved, None).errors
    assert len(errors) == is_known
    unit = "epochs" if "num_epochs" in run else "steps"
    assert all(f"takes 6 {unit}" in error and f"the run has 5 {unit}" in error for error in errors)


def test_keys_beyond_the_end_of_the_run_are_warned_of(tmp_path):
    run = {"max_steps": 12, "spike_sigmas": 4.0, "spike_window": 12}
    profiler = {"enabled": True, "profile_step": 13}
    bertds = {**BASE["bertds"], "run": run}
    case = case_of(tmp_path, None, bertds=bertds, flops_profiler=profiler)
    spike, profile = check_consistency(case.resolved, None).warnings
    assert "run.spike_window is 12, but the run has 12 steps" in spike
    assert "flops_profiler.profile_step is 13, but the run has 12 steps" in profile
