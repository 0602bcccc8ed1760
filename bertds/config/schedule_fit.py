"""Hold a learning-rate schedule against the length of its run.

An error: a warm-up that outlasts the run, or a part of the run at rate 0. A warning: a schedule that
ends before the run, or after it, which may be meant. A run of `num_epochs` that `max_steps` cuts
short is a trial, so its warm-up gives a warning as well.
"""

import math
from collections.abc import Iterator

from bertds.config.optimizer_schema import (
    CosineAnnealingWarmRestarts,
    OneCycle,
    Warmup,
    WarmupAndTotal,
    WarmupCosineLR,
    WarmupDecayLR,
    WarmupExponentialLR,
    WarmupLinearLR,
    WarmupStableDecayLR,
)
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import Block, RunConfig

_NO_RATE = 1e-6
"""A fraction of the peak rate at which nothing is learned."""


class _Fit:
    """The findings about one schedule."""

    def __init__(self, scheduler: Block, run: RunConfig, lengths: ScheduleLengths) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._scheduler, self._run, self._lengths = scheduler, run, lengths

    def given(self, *names: str) -> str:
        """Name the keys among these that the file gives, with their values."""
        values = {name: getattr(self._scheduler, name) for name in names}
        return ", ".join(
            f"scheduler.params.{name} {value}"
            for name, value in values.items()
            if value is not None
        )

    def add_endless_rise(self, message: str, consequence: str, remedy: str) -> None:
        """Add that the rate only rises: an error, or a warning about a run that is cut short."""
        limits = (self._run.max_steps, self._run.num_epochs)
        if None not in limits and self._run.max_steps == self._lengths.num_steps:
            self.warnings.append(f"{message}: {consequence}")
        else:
            self.errors.append(f"{message}: {consequence}; {remedy}")

    @property
    def the_run(self) -> str:
        """The length of the run, with the keys that give it."""
        limits = {"max_steps": self._run.max_steps, "num_epochs": self._run.num_epochs}
        limits["max_tokens"] = self._run.max_tokens
        keys = ", ".join(f"run.{key} {value}" for key, value in limits.items() if value)
        return f"the run has {self._lengths.text(self._lengths.num_steps)} ({keys})"


def check_schedule(
    scheduler: Block, run: RunConfig, lengths: ScheduleLengths
) -> tuple[list[str], list[str]]:
    """Return errors and warnings about the length of a schedule.

    Args:
        scheduler: The parameters of the scheduler.
        run: The length of the run, as the file states it.
        lengths: Steps of an epoch and of the run.
    """
    fit = _Fit(scheduler, run, lengths)
    match scheduler:
        case OneCycle():
            _one_cycle(fit, scheduler, lengths.num_steps)
        case CosineAnnealingWarmRestarts():
            _restarts(fit, scheduler, lengths)
        case WarmupAndTotal():
            _warmup(fit, scheduler, lengths)
            _total(fit, scheduler, lengths)
        case Warmup():
            _warmup(fit, scheduler, lengths)
            if isinstance(scheduler, WarmupExponentialLR):
                _exponential(fit, scheduler, lengths)
    return fit.errors, fit.warnings


def _warmup(fit: _Fit, params: Warmup, lengths: ScheduleLengths) -> None:
    """A warm-up ends within the run, unless the whole schedule is stated to be longer."""
    warmup, steps = lengths.warmup(params), lengths.num_steps
    keys = fit.given("warmup_num_steps", "warmup_epochs")
    if warmup < steps or (isinstance(params, WarmupAndTotal) and lengths.total(params) > steps):
        return
    if warmup == steps:
        fit.warnings.append(
            f"the warm-up takes {lengths.text(warmup)} ({keys}), and {fit.the_run}: the run ends "
            "with it"
        )
    else:
        fit.add_endless_rise(
            f"the warm-up takes {lengths.text(warmup)} ({keys}), but {fit.the_run}",
            "it would never reach optimizer.params.lr",
            "shorten the warm-up or lengthen the run",
        )


def _total(fit: _Fit, params: WarmupAndTotal, lengths: ScheduleLengths) -> None:
    """A schedule ends with the run."""
    total, steps = lengths.total(params), lengths.num_steps
    keys = fit.given("total_num_steps", "total_epochs")
    advice = "leave the length out to take the run's"
    if total < steps:
        message = f"the schedule ends after {lengths.text(total)} ({keys}), but {fit.the_run}"
        lowest = _lowest(params)
        if lowest == 0:
            fit.errors.append(f"{message}: it would train on at rate 0; {advice}")
        else:
            fit.warnings.append(
                f"{message}: it trains on at {lowest:g} of optimizer.params.lr; {advice}"
            )
    elif total > steps:
        part = " within the warm-up," if lengths.warmup(params) >= steps else ""
        fit.warnings.append(
            f"the schedule takes {lengths.text(total)} ({keys}), but {fit.the_run}: it ends{part} "
            f"at {steps / total:.0%} of the schedule; {advice}"
        )


def _lowest(params: WarmupAndTotal) -> float:
    """Return the rate after the end of the schedule, as a fraction of the peak."""
    match params:
        case WarmupLinearLR() | WarmupStableDecayLR():
            return params.min_ratio
        case WarmupCosineLR():
            return params.cos_min_ratio
        case WarmupDecayLR():
            return 0.0
        case _:
            raise AssertionError(f"{type(params).__name__} has no lowest rate")


def _exponential(fit: _Fit, params: WarmupExponentialLR, lengths: ScheduleLengths) -> None:
    """The rate decays in the run, but not to nothing."""
    period = lengths.period(params.decay_epochs)
    periods = max(0, lengths.num_steps - lengths.warmup(params)) / period
    keys = fit.given("gamma", "decay_epochs")
    if params.gamma == 1:
        return
    if params.staircase and periods <= 1:
        fit.warnings.append(
            f"the rate decays every {lengths.text(period)} after the warm-up ({keys}), but "
            f"{fit.the_run}: it never decays"
        )
    elif periods * math.log(params.gamma) < math.log(_NO_RATE):
        fit.warnings.append(
            f"the rate falls below {_NO_RATE:g} of optimizer.params.lr ({keys}), since "
            f"{fit.the_run}: raise gamma or decay_epochs, or shorten the run"
        )


def _restarts(fit: _Fit, params: CosineAnnealingWarmRestarts, lengths: ScheduleLengths) -> None:
    """The run ends with a cycle."""
    ends = list(_cycle_ends(params, lengths))
    if ends[-1] == lengths.num_steps:
        return
    nearest = " or ".join(lengths.text(end) for end in ends[-2:])
    fit.warnings.append(
        f"the run ends within a cosine cycle, at a high rate ({fit.given('T_0', 'T_0_epochs')}), "
        f"since {fit.the_run}: cycles end after {nearest}"
    )


def _cycle_ends(params: CosineAnnealingWarmRestarts, lengths: ScheduleLengths) -> Iterator[int]:
    """Yield the steps at which a cycle ends, up to the first one at or after the run's end."""
    length = lengths.steps(params.T_0, params.T_0_epochs)
    end = length
    if params.T_mult == 1:  # without a loop over millions of cycles
        end = max(length, (lengths.num_steps - 1) // length * length)
    while end < lengths.num_steps:
        yield end
        length *= params.T_mult
        end += length
    yield end


def _one_cycle(fit: _Fit, params: OneCycle, steps: int) -> None:
    first = params.cycle_first_step_size
    second = first if params.cycle_second_step_size is None else params.cycle_second_step_size
    keys = (
        f"scheduler.params.cycle_first_step_size {first}, scheduler.params.cycle_second_step_size "
        f"{second}"
    )
    if steps <= first:
        fit.add_endless_rise(
            f"the rate rises for {first:,} steps ({keys}), but {fit.the_run}",
            "it would never fall",
            "shorten the cycle or lengthen the run",
        )
    elif steps < first + second:
        fit.warnings.append(
            f"the cycle takes {first + second:,} steps ({keys}), but {fit.the_run}: the run ends "
            "within the cycle"
        )
    elif steps > first + second and params.cycle_min_lr == 0:
        fit.errors.append(
            f"the cycle ends at step {first + second:,} ({keys}), but {fit.the_run}: it would train "
            "on at rate 0; lengthen the cycle, or raise scheduler.params.cycle_min_lr"
        )
    elif steps > first + second and not params.decay_lr_rate:
        fit.warnings.append(
            f"the cycle ends at step {first + second:,} ({keys}), but {fit.the_run}: it trains on "
            f"at scheduler.params.cycle_min_lr {params.cycle_min_lr:g}"
        )
