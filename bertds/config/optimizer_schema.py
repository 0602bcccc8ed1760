"""Optimizers and schedulers: what stands in `params`, by `type`.

DeepSpeed meets a misspelt parameter only after all processes have started, and some of its defaults
surprise (a logarithmic warm-up, an "Adam" that is AdamW). Here each parameter is known, and what
would be left to such a default must be said. A test compares the tables with the installed
DeepSpeed.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bertds.config.schema import Block, Count

Rate = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], Field(strict=False)]
Ratio = Annotated[float, Field(ge=0, le=1)]


class OptimizerParams(Block):
    """What all optimizers have."""

    lr: Positive
    """Peak learning rate, per update."""
    weight_decay: Rate
    """Decay; must be given, the defaults of the implementations differ."""


class AdamParams(OptimizerParams):
    """`"type": "Adam"`. With `adam_w_mode: false` the decay is coupled L2, as torch's Adam."""

    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    adam_w_mode: bool
    """false: coupled L2 (Kingma and Ba, 2015); true: decoupled (AdamW). DeepSpeed's hidden
    default makes "Adam" an AdamW, so it must be given."""
    bias_correction: bool = True
    torch_adam: bool = False
    """torch's fused implementation, or on GPU DeepSpeed's. Not given: torch's, unless there is
    `offload_optimizer` or `bias_correction: false`, which torch's has not."""


class AdamWParams(OptimizerParams):
    """`"type": "AdamW"`: decoupled decay (Loshchilov and Hutter, 2019)."""

    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    adam_w_mode: Literal[True] = True
    bias_correction: bool = True
    torch_adam: bool = False


class LionParams(OptimizerParams):
    """`"type": "Lion"` (Chen et al., 2023); DeepSpeed has it on GPU only."""

    betas: Betas = (0.9, 0.999)
    """DeepSpeed's default; the paper has (0.9, 0.99)."""


class LambParams(OptimizerParams):
    """`"type": "Lamb"` (You et al., 2020); DeepSpeed has it on GPU only."""

    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    bias_correction: bool = True
    max_coeff: Positive = 10.0
    min_coeff: Positive = 0.01


OPTIMIZERS: dict[str, type[OptimizerParams]] = {
    "Adam": AdamParams,
    "AdamW": AdamWParams,
    "Lion": LionParams,
    "Lamb": LambParams,
}


class Warmup(Block):
    """A warm-up; its length in steps or in epochs."""

    warmup_num_steps: Count | None = None
    warmup_epochs: Rate | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.warmup_num_steps is None) == (self.warmup_epochs is None):
            raise ValueError("give one of warmup_num_steps and warmup_epochs")
        return self


class WarmupAndTotal(Warmup):
    """A warm-up and the length of the whole schedule (default: the run's)."""

    total_num_steps: Count | None = None
    total_epochs: Positive | None = None

    @model_validator(mode="after")
    def _at_most_one_total(self) -> Self:
        if self.total_num_steps is not None and self.total_epochs is not None:
            raise ValueError("give one of total_num_steps and total_epochs, or neither")
        return self


class DeepSpeedWarmup(Block):
    """DeepSpeed's warm-ups: the first two updates run at the minimum rate; one step becomes two."""

    warmup_type: Literal["linear", "log"]
    """Must be given: DeepSpeed's hidden default is logarithmic."""


class WarmupLR(Warmup, DeepSpeedWarmup):
    """DeepSpeed's: warm-up, then constant."""

    warmup_min_lr: Rate = 0.0
    warmup_max_lr: Positive | None = None


class WarmupDecayLR(WarmupAndTotal, DeepSpeedWarmup):
    """DeepSpeed's: warm-up, then linear decay to 0."""

    warmup_min_lr: Rate = 0.0
    warmup_max_lr: Positive | None = None


class WarmupCosineLR(WarmupAndTotal, DeepSpeedWarmup):
    """DeepSpeed's: warm-up, then half a cosine to cos_min_ratio of the rate."""

    warmup_min_ratio: Ratio = 0.0
    cos_min_ratio: Ratio = 1e-4


class OneCycle(Block):
    """DeepSpeed's 1-cycle policy (Smith, 2018)."""

    cycle_min_lr: Rate
    cycle_max_lr: Positive
    decay_lr_rate: Rate = 0.0
    cycle_first_step_size: Count = 2000
    cycle_second_step_size: Count | None = None
    cycle_first_stair_count: Annotated[int, Field(ge=0)] = 0
    cycle_second_stair_count: Annotated[int, Field(ge=0)] | None = None
    decay_step_size: Annotated[int, Field(ge=0)] = 0
    cycle_momentum: bool
    """Must be given: DeepSpeed's hidden default true overwrites Adam's betas."""
    cycle_min_mom: Beta = 0.8
    cycle_max_mom: Beta = 0.9
    decay_mom_rate: Rate = 0.0

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.cycle_min_lr > self.cycle_max_lr:
            raise ValueError(
                f"cycle_min_lr {self.cycle_min_lr} is above cycle_max_lr {self.cycle_max_lr}: "
                "exchange them"
            )
        return self


class WarmupLinearLR(WarmupAndTotal):
    """Ours, exact: linear warm-up, then linear decay to min_ratio of the rate."""

    min_ratio: Ratio = 0.0


class WarmupStableDecayLR(WarmupAndTotal):
    """Ours, exact: linear warm-up, constant, then a decay at the end."""

    decay_num_steps: Count | None = None
    decay_epochs: Positive | None = None
    decay_type: Literal["linear", "1-sqrt"] = "1-sqrt"
    min_ratio: Ratio = 0.0

    @model_validator(mode="after")
    def _one_decay(self) -> Self:
        if (self.decay_num_steps is None) == (self.decay_epochs is None):
            raise ValueError("give one of decay_num_steps and decay_epochs")
        return self


class WarmupExponentialLR(Warmup):
    """Ours, exact: linear warm-up, then a factor gamma every decay_epochs."""

    gamma: Annotated[float, Field(gt=0, le=1)]
    decay_epochs: Positive = 1.0
    staircase: bool = True
    """true: gamma is applied once at the end of each period; false: continuously."""


class CosineAnnealingWarmRestarts(Block):
    """Ours, exact, with torch's names (Loshchilov and Hutter, SGDR, 2017)."""

    T_0: Count | None = None
    """Steps of the first cycle."""
    T_0_epochs: Positive | None = None
    """Or its epochs."""
    T_mult: Count = 1
    """Each cycle is so many times as long as the one before."""
    eta_min: Rate = 0.0
    """Learning rate at a cycle's end."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.T_0 is None) == (self.T_0_epochs is None):
            raise ValueError("give one of T_0 and T_0_epochs")
        return self


SCHEDULERS: dict[str, type[Block]] = {
    "WarmupLR": WarmupLR,
    "WarmupDecayLR": WarmupDecayLR,
    "WarmupCosineLR": WarmupCosineLR,
    "OneCycle": OneCycle,
    "WarmupLinearLR": WarmupLinearLR,
    "WarmupStableDecayLR": WarmupStableDecayLR,
    "WarmupExponentialLR": WarmupExponentialLR,
    "CosineAnnealingWarmRestarts": CosineAnnealingWarmRestarts,
}


class Chosen(Block):
    """An optimizer or scheduler block: which one, and its parameters."""

    type: str
    params: dict[str, Any]
