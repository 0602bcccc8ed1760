"""Learning-rate schedules: the rate of each optimizer step as a pure factor of the peak rate.

Step s, counted from 0, uses factor(s). A linear warm-up of W steps uses (s + 1) / W, so no update is
made at rate 0, and the last warm-up step reaches the peak.

DeepSpeed runs its own schedulers. This module only converts their lengths to steps. Their first two
updates use the minimum rate (WarmupLR, linear, W = 4, peak 1: 0, 0, .25, .5, .75, 1).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bertds.config.optimizer_schema import (
    SCHEDULERS,
    Chosen,
    CosineAnnealingWarmRestarts,
    OneCycle,
    Warmup,
    WarmupAndTotal,
    WarmupExponentialLR,
    WarmupLinearLR,
    WarmupStableDecayLR,
)
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.errors import ConfigError

Factor = Callable[[int], float]
DEEPSPEEDS_OWN = ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR", "OneCycle")


def lr_lambda(scheduler: Chosen | None, lengths: ScheduleLengths, peak_lr: float) -> Factor:
    """Build the factor of a scheduler that this module implements.

    Args:
        scheduler: The case's scheduler block; None gives the constant 1.
        lengths: Steps of an epoch and of the run.
        peak_lr: The optimizer's learning rate.

    Raises:
        ConfigError: Warm-up and decay are longer than the schedule.
    """
    if scheduler is None:
        return constant
    params = SCHEDULERS[scheduler.type].model_validate(scheduler.params)
    match params:
        case WarmupLinearLR():
            warmup, total = _warmup_and_total(params, lengths)
            return partial(linear, warmup=warmup, total=total, minimum=params.min_ratio)
        case WarmupStableDecayLR():
            warmup, total = _warmup_and_total(params, lengths)
            return partial(
                stable_decay,
                warmup=warmup,
                decay=_decay(params, lengths, warmup, total),
                total=total,
                root=params.decay_type == "1-sqrt",
                minimum=params.min_ratio,
            )
        case WarmupExponentialLR():
            period = lengths.period(params.decay_epochs)
            return partial(
                exponential,
                warmup=lengths.warmup(params),
                gamma=params.gamma,
                period=period,
                staircase=params.staircase,
            )
        case CosineAnnealingWarmRestarts():
            first = lengths.steps(params.T_0, params.T_0_epochs)
            return partial(
                cosine_restarts,
                first=first,
                multiplier=params.T_mult,
                minimum=params.eta_min / peak_lr,
                warmup=_cycle_warmup(params, lengths, first),
                gamma=params.gamma,
            )
        case _:
            raise AssertionError(f"{scheduler.type} is implemented by DeepSpeed")


def _cycle_warmup(params: CosineAnnealingWarmRestarts, lengths: ScheduleLengths, first: int) -> int:
    """Return the steps of the warm-up of each cycle, which is part of the first one."""
    if params.warmup_num_steps is None and params.warmup_epochs is None:
        return 0
    warmup = lengths.steps(params.warmup_num_steps, params.warmup_epochs)
    if warmup >= first:
        raise ConfigError(
            f"scheduler.params: the warm-up of a cycle takes {warmup} steps, the first cycle only "
            f"{first}: shorten the warm-up"
        )
    return warmup


def _warmup_and_total(params: WarmupAndTotal, lengths: ScheduleLengths) -> tuple[int, int]:
    """Return the steps of the warm-up and of the whole schedule."""
    warmup, total = lengths.warmup(params), lengths.total(params)
    _check_fits(warmup, total, "the warm-up")
    return warmup, total


def _decay(params: WarmupStableDecayLR, lengths: ScheduleLengths, warmup: int, total: int) -> int:
    """Return the steps of the decay, which follow from those of the stable part if that is given."""
    if params.stable_num_steps is None and params.stable_epochs is None:
        decay = lengths.steps(params.decay_num_steps, params.decay_epochs)
        _check_fits(warmup + decay, total, "warm-up and decay")
        return decay
    stable = lengths.steps(params.stable_num_steps, params.stable_epochs)
    # One step of decay at least.
    _check_fits(warmup + stable + 1, total, "warm-up, stable part and a decay of one step")
    return total - warmup - stable


def _check_fits(part: int, total: int, what: str) -> None:
    if part > total:
        raise ConfigError(
            f"scheduler.params: {what} takes {part} steps, more than the whole schedule's {total}: "
            "shorten it or lengthen the run"
        )


def constant(step: int) -> float:  # noqa: ARG001 - a Factor takes the step
    """Return 1 for every step."""
    return 1.0


def linear(step: int, *, warmup: int, total: int, minimum: float) -> float:
    """Linear warm-up, then linear decay to `minimum`, which is reached one step after the last."""
    if step < warmup:
        return (step + 1) / warmup
    left = max(0, total - step) / max(1, total - warmup)
    return minimum + (1 - minimum) * left


def stable_decay(
    step: int, *, warmup: int, decay: int, total: int, root: bool, minimum: float
) -> float:
    """Linear warm-up, constant, then linear or 1 - sqrt decay to `minimum` in `decay` steps.

    Haegele et al., "Scaling laws and compute-optimal training beyond fixed training durations"
    (2024), section 3.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, max(0, step - (total - decay)) / decay)
    return minimum + (1 - minimum) * (1 - (math.sqrt(done) if root else done))


def exponential(step: int, *, warmup: int, gamma: float, period: int, staircase: bool) -> float:
    """Linear warm-up, then gamma ** periods, counted in whole periods if `staircase`."""
    if step < warmup:
        return (step + 1) / warmup
    periods = (step - warmup) // period if staircase else (step - warmup) / period
    return float(gamma**periods)


def cosine_restarts(
    step: int,
    *,
    first: int,
    multiplier: int,
    minimum: float,
    warmup: int = 0,
    gamma: float = 1.0,
) -> float:
    """Cosine to `minimum` with warm restarts; each cycle is `multiplier` times as long.

    Loshchilov and Hutter, "SGDR" (2017), equation 5, with the step within the cycle. In step s of
    cycle i, whose length is L and whose peak is p = max(gamma ** i, minimum), the factor is

        minimum + (p - minimum) (s + 1) / warmup                                       if s < warmup
        minimum + (p - minimum) (1 + cos(pi (s - warmup) / (L - warmup))) / 2          otherwise
    """
    cycle, length, step_in_cycle = 0, first, step
    if multiplier == 1:
        cycle, step_in_cycle = divmod(step, first)
    while step_in_cycle >= length:
        step_in_cycle, length = step_in_cycle - length, length * multiplier
        cycle += 1
    height = max(gamma**cycle, minimum) - minimum
    if step_in_cycle < warmup:
        return minimum + height * (step_in_cycle + 1) / warmup
    angle = math.pi * (step_in_cycle - warmup) / (length - warmup)
    return minimum + height * (1 + math.cos(angle)) / 2


def deepspeed_block(scheduler: Chosen, lengths: ScheduleLengths, peak_lr: float) -> dict[str, Any]:
    """Build the config block of a DeepSpeed scheduler, with its lengths in steps.

    Raises:
        ConfigError: The warm-up is longer than the schedule.
    """
    params = SCHEDULERS[scheduler.type].model_validate(scheduler.params)
    values = params.model_dump(exclude_none=True)
    if isinstance(params, Warmup):
        values = {k: v for k, v in values.items() if not k.endswith("_epochs")}
        values["warmup_num_steps"] = max(1, lengths.warmup(params))
    if isinstance(params, WarmupAndTotal):
        values["total_num_steps"] = _warmup_and_total(params, lengths)[1]
    if "warmup_min_lr" in values:
        # DeepSpeed's WarmupDecayLR defaults to 0.001 instead of the optimizer's rate.
        values.setdefault("warmup_max_lr", peak_lr)
    if isinstance(params, OneCycle):
        values.setdefault("cycle_max_lr", peak_lr)
    return {"type": scheduler.type, "params": values}


def torch_scheduler(
    optimizer: torch.optim.Optimizer, factor: Factor
) -> torch.optim.lr_scheduler.LambdaLR:
    """Wrap a factor as a torch scheduler, which counts applied updates."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
