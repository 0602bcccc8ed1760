"""The norm of the gradient and its overflow check at ZeRO stages 1 and 2, with one wait a step.

DeepSpeed looks for NaN and infinity in every gradient, then takes the norm of every gradient, and
waits for the device after each of these parts. Here one fused kernel takes all norms, and one
reduction adds their squares over the ranks. A norm is finite only if every number is. So the check
that DeepSpeed makes of the norm decides alone whether the step is skipped, on all ranks alike.

Norm and clipping are computed as DeepSpeed 0.19.8 computes them: in 64 bits for each gradient, then
in 32 bits for each parameter group.
"""

import types
from itertools import chain
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from bertds.errors import ConfigError

REPLACED = ("check_overflow", "scaled_global_norm", "unscale_and_clip_grads")
"""Methods of DeepSpeed's optimizer that are replaced, in the optimizer alone, not in its class."""
_CALLED = (*REPLACED, "is_invalid_grad_norm")
"""Names that its step uses; the last one waits for the norm, and decides whether to skip."""
_READ = (
    "averaged_gradients",
    "bit16_groups",
    "clip_grad",
    "compute_grad_norm",
    "cpu_offload",
    "dp_process_group",
    "loss_scale",
    "overflow",
)
"""Attributes of its optimizer that are read or set here."""
_DIVISOR_EPSILON = 1e-6


def fuse_gradient_checks(optimizer: Any) -> None:
    """Replace DeepSpeed's checks of an optimizer at ZeRO 1 or 2; others are left as they are.

    Raises:
        ConfigError: The installed DeepSpeed has another optimizer than the one this was written for.
    """
    if type(optimizer) is not DeepSpeedZeroOptimizer:
        return
    missing = [name for name in _CALLED if name not in type(optimizer).step.__code__.co_names]
    missing += [name for name in _READ if not hasattr(optimizer, name)]
    if missing:
        raise ConfigError(
            f"DeepSpeed {deepspeed.__version__} has no {missing[0]} in its ZeRO 1 and 2 optimizer, "
            "which this version of bertds replaces or reads: install deepspeed==0.19.8"
        )
    if optimizer.cpu_offload or not optimizer.compute_grad_norm:
        return  # DeepSpeed takes the norms elsewhere, or none
    for replacement in (check_overflow, scaled_global_norm, unscale_and_clip_grads):
        setattr(optimizer, replacement.__name__, types.MethodType(replacement, optimizer))


def check_overflow(optimizer: Any, **_: Any) -> None:
    """Leave the check to the norm, which DeepSpeed checks next."""
    optimizer.overflow = False


def scaled_global_norm(optimizer: Any, norm_type: int = 2) -> Tensor:
    """The norm over all ranks, times the loss scale; infinite if a number is not finite."""
    assert norm_type == 2, norm_type
    groups = [_gradients(optimizer, group) for group in range(len(optimizer.bit16_groups))]
    norms = torch._foreach_norm(list(chain(*groups)), 2, dtype=torch.float64)
    by_group = torch.split(torch.stack(norms).square_(), [len(group) for group in groups])
    squares = torch.stack([group.sum() for group in by_group]).float()
    deepspeed.comm.all_reduce(squares, group=optimizer.dp_process_group)
    norm: Tensor = torch.linalg.vector_norm(squares.sqrt_())
    return norm.nan_to_num_(nan=torch.inf, posinf=torch.inf)


def _gradients(optimizer: Any, group: int) -> list[Tensor]:
    """The parts of a group's gradients that this rank updates, without padding if it has others."""
    parts = [part.detach() for part in optimizer.averaged_gradients[group]]
    padding = [
        getattr(part, "_zero_padding", False) for part in optimizer.averaged_gradients[group]
    ]
    return [part for part, is_zero in zip(parts, padding, strict=True) if not is_zero] or parts


def unscale_and_clip_grads(optimizer: Any, gradients: list[Tensor], norm: Tensor) -> None:
    """Divide by the loss scale, and by the part of the norm above the limit, without a wait."""
    scale = optimizer.loss_scale
    if optimizer.clip_grad > 0:
        excess = (norm / scale + _DIVISOR_EPSILON) / optimizer.clip_grad
        scale = excess.clamp_(min=1.0) * scale
    elif scale == 1.0:
        return
    for gradient in gradients:
        gradient.mul_(1.0 / scale)
