"""Settings that contradict one another, or the length of the run.

A new run with an error does not start. A run that has a checkpoint resumes as before, with warnings.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bertds.config.deepspeed_schema import DYNAMIC_SCALE, CaseFile
from bertds.config.optimizer_schema import (
    SCHEDULERS,
    OneCycle,
    WarmupDecayLR,
    WarmupLR,
)
from bertds.config.overrides import Json
from bertds.config.schedule_fit import check_schedule
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import Block

_EPOCH = 1_000_000
"""Steps of an epoch where they do not matter."""


_FIRST_WEIGHTS = 0.01
"""Share of the first weights in a moving average that gives a warning."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with a case, and what may be."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_consistency(content: Json, lengths: ScheduleLengths | None) -> Findings:
    """Compare the settings of a case with one another, and with the length of its run.

    Args:
        content: The content of a case file after its patches, which has passed all other checks.
        lengths: Steps of an epoch and of the run; None without data, to check only what the file
            itself tells.
    """
    file = CaseFile.model_validate(content)
    scheduler = file.scheduler and SCHEDULERS[file.scheduler.type].model_validate(
        file.scheduler.params
    )
    findings = Findings()
    findings.errors.extend(_loss_scale(file))
    if scheduler is not None:
        findings.errors.extend(_rates(file, scheduler))
    findings.warnings.extend(_without_effect(file))
    lengths = lengths or _lengths_in_file(file, scheduler)
    if lengths is not None:
        if scheduler is not None:
            errors, warnings = check_schedule(scheduler, file.bertds.run, lengths)
            findings.errors.extend(errors)
            findings.warnings.extend(warnings)
        if not lengths.is_in_epochs:
            findings.warnings.extend(_slow_average(file, lengths))
            findings.warnings.extend(_beyond_the_run(file, lengths))
    return findings


def _lengths_in_file(file: CaseFile, scheduler: Block | None) -> ScheduleLengths | None:
    """Return the lengths if run and schedule are given in the same unit, steps or epochs."""
    run = file.bertds.run
    if run.max_tokens is not None:
        return None
    given = {name for name, value in scheduler or () if isinstance(value, int | float)}
    has_epochs = any(name.endswith("_epochs") for name in given)
    has_steps = any(name.endswith(("_steps", "_step_size")) or name == "T_0" for name in given)
    if run.num_epochs is None and run.max_steps is not None and not has_epochs:
        return ScheduleLengths(run.max_steps, run.max_steps)
    is_varying = run.batch_size_warmup is not None  # then an epoch has no fixed number of steps
    if run.num_epochs is not None and run.max_steps is None and not (has_steps or is_varying):
        return ScheduleLengths(_EPOCH, round(run.num_epochs * _EPOCH), is_in_epochs=True)
    return None


def _slow_average(file: CaseFile, lengths: ScheduleLengths) -> Iterator[str]:
    """A moving average starts from the first weights; a slow one still holds much of them."""
    decay = file.bertds.run.ema_decay
    if decay is not None and decay**lengths.num_steps > _FIRST_WEIGHTS:
        yield (
            f"run.ema_decay is {decay}, so after {lengths.num_steps} steps "
            f"{decay**lengths.num_steps:.0%} of the average are still the first weights: lower it"
        )


def _rates(file: CaseFile, scheduler: Block) -> Iterator[str]:
    """The peak is stated once; the other rates are below it."""
    rate = file.optimizer.params["lr"]
    names = {WarmupLR: "warmup", WarmupDecayLR: "warmup", OneCycle: "cycle"}
    name = names.get(type(scheduler))
    if name is None:
        return
    peak, lowest = getattr(scheduler, f"{name}_max_lr"), getattr(scheduler, f"{name}_min_lr")
    if peak is not None and peak != rate:
        yield (
            f"scheduler.params.{name}_max_lr is {peak}, but optimizer.params.lr is {rate}, "
            f"and DeepSpeed trains with the former: leave {name}_max_lr out, and set "
            f"optimizer.params.lr to the rate that you want ({peak} trains as before)"
        )
    elif lowest > rate:
        yield (
            f"scheduler.params.{name}_min_lr is {lowest}, above optimizer.params.lr "
            f"{rate}: lower it"
        )
    if isinstance(scheduler, OneCycle):
        yield from _one_cycle(file, scheduler)


def _one_cycle(file: CaseFile, scheduler: OneCycle) -> Iterator[str]:
    """OneCycle replaces the betas; without an interval its decay has no effect."""
    betas = file.optimizer.params.get("betas")
    used = [scheduler.cycle_max_mom, 0.99]
    if scheduler.cycle_momentum and betas is not None and list(betas) != used:
        yield (
            f"optimizer.params.betas is {list(betas)}, but scheduler.params.cycle_momentum is true, "
            f"so that OneCycle replaces them by {scheduler.cycle_min_mom} to "
            f"{scheduler.cycle_max_mom} and 0.99: set betas to {used}, or cycle_momentum to false"
        )
    for key in ("decay_lr_rate", "decay_mom_rate"):
        if getattr(scheduler, key) and not scheduler.decay_step_size:
            yield (
                f"scheduler.params.{key} is {getattr(scheduler, key)}, but "
                "scheduler.params.decay_step_size is 0, which means no decay: change one of them"
            )


def _loss_scale(file: CaseFile) -> Iterator[str]:
    """A fixed loss scale has no initial value and no window."""
    given = [f"fp16.{key}" for key in DYNAMIC_SCALE if key in file.fp16.model_fields_set]
    if file.fp16.enabled and file.fp16.loss_scale and given:
        yield (
            f"fp16.loss_scale is {file.fp16.loss_scale:g}, a fixed scale, but {', '.join(given)} "
            "describes a dynamic one: leave one of them out"
        )


def _without_effect(file: CaseFile) -> Iterator[str]:
    """Keys that DeepSpeed ignores next to the others."""
    zero, profiler = file.zero_optimization, file.flops_profiler
    partitioned = {
        "zero_quantized_weights": getattr(zero, "zero_quantized_weights", None),
        "zero_quantized_gradients": getattr(zero, "zero_quantized_gradients", None),
        "zero_hpz_partition_size": zero.zero_hpz_partition_size > 1,
    }
    for key in (key for key, is_on in partitioned.items() if is_on and zero.stage < 3):
        yield (
            f"zero_optimization.{key} has no effect at zero_optimization.stage {zero.stage}: set "
            "the stage to 3, or delete it"
        )
    if getattr(zero, "stage3_gather_16bit_weights_on_model_save", None):
        yield (
            "zero_optimization.stage3_gather_16bit_weights_on_model_save has no effect: checkpoints "
            "and exports have all weights at every stage; delete it"
        )
    if file.prescale_gradients and file.gradient_predivide_factor != 1:
        yield (
            f"gradient_predivide_factor {file.gradient_predivide_factor:g} has no effect with "
            "prescale_gradients true: delete one of them"
        )
    factor, is_recomputed = profiler.recompute_fwd_factor, file.bertds.model.gradient_checkpointing
    if profiler.enabled and factor != is_recomputed:
        yield (
            f"flops_profiler.recompute_fwd_factor is {factor:g}, but model.gradient_checkpointing is "
            f"{str(is_recomputed).lower()}: set the former to {int(is_recomputed)}"
        )
    for key, dtype in (
        ("communication_data_type", file.communication_data_type),
        ("data_types.grad_accum_dtype", file.data_types.grad_accum_dtype),
    ):
        if dtype == "fp16" and not file.fp16.enabled:
            yield (
                f'{key} is "fp16", but the weights are {file.precision}, without a loss scale: '
                "small gradients become 0; leave it out"
            )


def _beyond_the_run(file: CaseFile, lengths: ScheduleLengths) -> Iterator[str]:
    """Keys that only take effect after the run's last step."""
    run, profiler = file.bertds.run, file.flops_profiler
    warmup = run.batch_size_warmup
    if (
        warmup is not None
        and warmup.num_steps is not None
        and warmup.num_steps >= lengths.num_steps
    ):
        yield (
            f"run.batch_size_warmup.num_steps is {warmup.num_steps}, but the run has "
            f"{lengths.num_steps} steps: no batch has train_batch_size; shorten the warm-up"
        )
    if run.spike_sigmas is not None and run.spike_window >= lengths.num_steps:
        yield (
            f"run.spike_window is {run.spike_window}, but the run has {lengths.num_steps} steps: no "
            "loss spike is detected; lower it"
        )
    if profiler.enabled and profiler.profile_step > lengths.num_steps:
        yield (
            f"flops_profiler.profile_step is {profiler.profile_step}, but the run has "
            f"{lengths.num_steps} steps: nothing is profiled; lower it"
        )
