"""Optimizers and schedulers: the keys of their `params`, by `type`.

DeepSpeed rejects a misspelled parameter only after all processes have started, and does not check
the values. Some of its defaults are surprising: a logarithmic warm-up, an "Adam" that is AdamW.
Here every parameter is known, and one with a surprising default is required. A test compares the
names and defaults with the installed DeepSpeed.
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
    """Common parameters of all optimizers."""

    lr: Positive
    """Peak learning rate."""
    weight_decay: Rate
    """Weight decay. Required: the defaults of the implementations differ."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the running averages. The Lion paper has (0.9, 0.99)."""


class AdamParams(OptimizerParams):
    """`"type": "Adam"` (Kingma and Ba, 2015)."""

    eps: Positive = 1e-8
    """Added to the denominator."""
    adam_w_mode: bool
    """false: coupled L2, as torch's Adam; true: decoupled weight decay (AdamW). Required:
    DeepSpeed's default is true."""
    bias_correction: bool = True
    """Whether the running averages are corrected for their zero start."""
    torch_adam: bool = False
    """Whether to use torch's fused implementation. Default: torch's, except with
    `offload_optimizer`, or on GPU with `bias_correction: false`, which torch does not have."""


class AdamWParams(OptimizerParams):
    """`"type": "AdamW"`: decoupled weight decay (Loshchilov and Hutter, 2019)."""

    eps: Positive = 1e-8
    """Added to the denominator."""
    adam_w_mode: Literal[True] = True
    """Always true."""
    bias_correction: bool = True
    """As for Adam."""
    torch_adam: bool = False
    """As for Adam."""


class LionParams(OptimizerParams):
    """`"type": "Lion"` (Chen et al., 2023); on GPU only."""


class LambParams(OptimizerParams):
    """`"type": "Lamb"` (You et al., 2020); on GPU only."""

    eps: Positive = 1e-8
    """Added to the denominator."""
    bias_correction: bool = True
    """As for Adam."""
    max_coeff: Positive = 10.0
    """Maximum of the trust ratio of a layer."""
    min_coeff: Positive = 0.01
    """Minimum of the trust ratio of a layer."""


class MuonParams(OptimizerParams):
    """`"type": "Muon"` (Jordan et al., 2024): for the matrices of the layers; AdamW for the rest.

    AdamW trains embeddings, norms, biases and the head with lr, weight_decay, betas and eps. The query,
    key and value matrices, and the two of a gated linear unit, are orthogonalized one by one. Not with
    offloading, nor with master weights in 16 bits.
    """

    eps: Positive = 1e-8
    """Added to AdamW's denominator."""
    muon_lr: Positive | None = None
    """Peak learning rate of the matrices. It follows the same schedule. Default: lr."""
    muon_weight_decay: Rate | None = None
    """Weight decay of the matrices, decoupled. Default: weight_decay."""
    momentum: Beta = 0.95
    """Decay rate of the matrices' momentum, which is Nesterov's."""
    ns_steps: Count = 5
    """Newton-Schulz iterations."""
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = "match_rms_adamw"
    """Factor of muon_lr for an R x C matrix, as in torch.optim.Muon: 0.2 * sqrt(max(R, C)), with which
    rates of AdamW fit (match_rms_adamw), or sqrt(max(1, R / C)) (original), for rates such as 0.02."""

    @property
    def rate_of_matrices(self) -> float:
        """`muon_lr` with its default."""
        return self.lr if self.muon_lr is None else self.muon_lr

    @property
    def decay_of_matrices(self) -> float:
        """`muon_weight_decay` with its default."""
        return self.weight_decay if self.muon_weight_decay is None else self.muon_weight_decay


class StableAdamWParams(OptimizerParams):
    """`"type": "StableAdamW"` (Wortsman et al., 2023): AdamW with the update clipping of Adafactor.

    The rate of a parameter is divided by the root mean square of its gradient relative to the running
    average, if that is above 1. A run may change between AdamW and StableAdamW when it resumes. Not with
    offloading, nor with master weights in 16 bits.
    """

    eps: Positive = 1e-8
    """Added to the denominator."""


OPTIMIZERS: dict[str, type[OptimizerParams]] = {
    "Adam": AdamParams,
    "AdamW": AdamWParams,
    "Lion": LionParams,
    "Lamb": LambParams,
    "Muon": MuonParams,
    "StableAdamW": StableAdamWParams,
}
OUR_OWN = ("Muon", "StableAdamW")
"""Optimizers that are not DeepSpeed's."""


class Warmup(Block):
    """A warm-up, whose length is given in steps or in epochs."""

    warmup_num_steps: Count | None = None
    """Length of the warm-up in optimizer steps."""
    warmup_epochs: Rate | None = None
    """Length of the warm-up in epochs."""

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if (self.warmup_num_steps is None) == (self.warmup_epochs is None):
            raise ValueError("give one of warmup_num_steps and warmup_epochs")
        return self


class WarmupAndTotal(Warmup):
    """A warm-up, and the length of the whole schedule."""

    total_num_steps: Count | None = None
    """Length of the schedule in optimizer steps. Default: the length of the run."""
    total_epochs: Positive | None = None
    """Length of the schedule in epochs. Default: the length of the run."""

    @model_validator(mode="after")
    def _check_total(self) -> Self:
        if self.total_num_steps is not None and self.total_epochs is not None:
            raise ValueError("give one of total_num_steps and total_epochs, or neither")
        return self


class DeepSpeedWarmup(Block):
    """DeepSpeed's warm-ups: the first two updates have the minimum rate; one step becomes two."""

    warmup_type: Literal["linear", "log"]
    """Shape of the warm-up. Required: DeepSpeed's default is logarithmic."""


class WarmupLR(Warmup, DeepSpeedWarmup):
    """DeepSpeed's schedule: warm-up, then constant."""

    warmup_min_lr: Rate = 0.0
    """Learning rate at the start."""
    warmup_max_lr: Positive | None = None
    """Learning rate after the warm-up. Default: optimizer.params.lr, which it must equal."""


class WarmupDecayLR(WarmupAndTotal, DeepSpeedWarmup):
    """DeepSpeed's schedule: warm-up, then linear decay to 0."""

    warmup_min_lr: Rate = 0.0
    """Learning rate at the start."""
    warmup_max_lr: Positive | None = None
    """Learning rate after the warm-up. Default: optimizer.params.lr, which it must equal."""


class WarmupCosineLR(WarmupAndTotal, DeepSpeedWarmup):
    """DeepSpeed's schedule: warm-up, then half a cosine."""

    warmup_min_ratio: Ratio = 0.0
    """Initial learning rate, as a fraction of the peak."""
    cos_min_ratio: Ratio = 1e-4
    """Final learning rate, as a fraction of the peak."""


class OneCycle(Block):
    """DeepSpeed's 1-cycle policy (Smith, 2018)."""

    cycle_min_lr: Rate
    """Learning rate at both ends of the cycle."""
    cycle_max_lr: Positive | None = None
    """Learning rate in the middle of the cycle. Default: optimizer.params.lr, which it
    must equal."""
    decay_lr_rate: Rate = 0.0
    """Decay of the learning rate after the cycle."""
    cycle_first_step_size: Count = 2000
    """Length of the first half of the cycle in steps."""
    cycle_second_step_size: Count | None = None
    """Length of the second half of the cycle in steps. Default: that of the first half."""
    cycle_first_stair_count: Annotated[int, Field(ge=0)] = 0
    """Number of stairs in the first half; 0 is continuous."""
    cycle_second_stair_count: Annotated[int, Field(ge=0)] | None = None
    """Number of stairs in the second half. Default: that of the first half."""
    decay_step_size: Annotated[int, Field(ge=0)] = 0
    """Interval in steps at which the decay applies; 0 means no decay."""
    cycle_momentum: bool
    """Whether momentum cycles inversely. Required: DeepSpeed's default, true, overwrites betas."""
    cycle_min_mom: Beta = 0.8
    """Momentum in the middle of the cycle."""
    cycle_max_mom: Beta = 0.9
    """Momentum at both ends of the cycle."""
    decay_mom_rate: Rate = 0.0
    """Decay of the momentum after the cycle."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cycle_max_lr is not None and self.cycle_min_lr > self.cycle_max_lr:
            raise ValueError(
                f"cycle_min_lr {self.cycle_min_lr} is above cycle_max_lr {self.cycle_max_lr}: "
                "swap them"
            )
        return self


class WarmupLinearLR(WarmupAndTotal):
    """Exact schedule of bertds: linear warm-up, then linear decay."""

    min_ratio: Ratio = 0.0
    """Final learning rate, as a fraction of the peak."""


class WarmupStableDecayLR(WarmupAndTotal):
    """Exact schedule of bertds: linear warm-up, constant, then a decay at the end."""

    decay_num_steps: Count | None = None
    """Length of the decay in optimizer steps."""
    decay_epochs: Positive | None = None
    """Length of the decay in epochs."""
    stable_num_steps: Count | None = None
    """Instead of the length of the decay: length of the constant part in optimizer steps. The decay
    then begins at warm-up + stable_num_steps and ends with the schedule."""
    stable_epochs: Positive | None = None
    """The same in epochs."""
    decay_type: Literal["linear", "1-sqrt"] = "1-sqrt"
    """Shape of the decay: linear, or one minus a square root."""
    min_ratio: Ratio = 0.0
    """Final learning rate, as a fraction of the peak."""

    @model_validator(mode="after")
    def _check_decay(self) -> Self:
        names = ("decay_num_steps", "decay_epochs", "stable_num_steps", "stable_epochs")
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"give one of {', '.join(names[:-1])} and {names[-1]}")
        return self


class WarmupExponentialLR(Warmup):
    """Exact schedule of bertds: linear warm-up, then exponential decay."""

    gamma: Annotated[float, Field(gt=0, le=1)]
    """Factor of the learning rate for each period."""
    decay_epochs: Positive = 1.0
    """Length of a period in epochs."""
    staircase: bool = True
    """true: apply gamma once, at the end of each period; false: continuously."""


class CosineAnnealingWarmRestarts(Block):
    """Exact schedule of bertds, with torch's names (SGDR: Loshchilov and Hutter, 2017)."""

    T_0: Count | None = None
    """Length of the first cycle in optimizer steps."""
    T_0_epochs: Positive | None = None
    """Length of the first cycle in epochs."""
    T_mult: Count = 1
    """Length of each cycle as a multiple of the one before."""
    eta_min: Rate = 0.0
    """Learning rate at the end of a cycle."""
    warmup_num_steps: Count | None = None
    """Length of the warm-up of each cycle in optimizer steps, from eta_min to the cycle's peak; less
    than the first cycle. Default: none."""
    warmup_epochs: Positive | None = None
    """Length of the warm-up of each cycle in epochs."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Peak of each cycle as a fraction of the peak of the one before."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.T_0 is None) == (self.T_0_epochs is None):
            raise ValueError("give one of T_0 and T_0_epochs")
        if self.warmup_num_steps is not None and self.warmup_epochs is not None:
            raise ValueError("give one of warmup_num_steps and warmup_epochs, or neither")
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


ONE_RATE = ("WarmupLR", "WarmupDecayLR", "OneCycle")
"""Schedulers of DeepSpeed that set one rate for all parameter groups."""


class Chosen(Block):
    """An `optimizer` or `scheduler` block."""

    type: str
    """One of the types above."""
    params: dict[str, Any]
    """Its parameters."""
