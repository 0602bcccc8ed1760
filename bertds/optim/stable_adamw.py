"""StableAdamW (Wortsman et al., 2023): AdamW whose rate falls where a gradient outgrows its history.

    m, u = Adam's running averages, corrected for their zero start
    rate = lr / max(1, RMS),   RMS = sqrt(mean(gradient ** 2 / max(u, eps ** 2)))    of each parameter
    w    = w - rate * (m / (sqrt(u) + eps) + weight_decay * w)

The mean is over a whole parameter, which ZeRO may cut anywhere. So the ranks add up the sums of their
parts: one number per parameter. The states have the names and the meaning of Adam's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterPart:
    """The part of a parameter that this rank holds; it may be empty."""

    size: int
    """Numbers of the whole parameter."""
    length: int
    offset: int
    """First element of the part in the flattened tensor that the optimizer steps."""


class StableAdamW(torch.optim.AdamW):
    """AdamW with the clipping of Adafactor for each parameter."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """Create it without any step: `place` must follow before the first real one."""
        super().__init__(groups, lr, betas, eps, weight_decay, fused=True)
        self._parts: Mapping[Tensor, Sequence[ParameterPart]] = {}
        self._sizes: dict[Tensor, Tensor] = {}
        self._add_up: Callable[[Tensor], object] = lambda _: None

    def place(
        self,
        parts: Mapping[Tensor, Sequence[ParameterPart]],
        add_up: Callable[[Tensor], object],
    ) -> None:
        """Tell it where the parameters are.

        Args:
            parts: The parts of each tensor that it steps, in the same order on all ranks.
            add_up: Adds the sums of all ranks, in place; does nothing if each rank has everything.
        """
        self._parts, self._add_up = parts, add_up
        # Made once: a copy from the host in each step would wait for the device.
        self._sizes = {
            tensor: torch.tensor(
                [part.size for part in parts[tensor]], dtype=torch.float64, device=tensor.device
            )
            for tensor in parts
        }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step the parameters that have a gradient; all ranks must call it."""
        assert closure is None
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None and tensor in self._parts:
                    self._step_tensor(tensor, tensor.grad, group)

    def _step_tensor(self, tensor: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), eps = group["betas"], group["eps"]
        state = self.state[tensor]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)
            state["exp_avg"] = torch.zeros_like(tensor, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(tensor, requires_grad=False)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        second = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
        ratios = gradient.square().div_(second.clamp(min=eps**2)).view(-1)
        update = state["exp_avg"] / (1 - beta1 ** state["step"])
        update.div_(second.sqrt_().add_(eps)).add_(tensor, alpha=group["weight_decay"])
        flat, updates = tensor.view(-1), update.view(-1)
        parts = self._parts[tensor]
        factors = self._factors(parts, ratios, self._sizes[tensor])
        for part, factor in zip(parts, factors, strict=True):
            end = part.offset + part.length
            flat[part.offset : end].sub_(updates[part.offset : end] * (group["lr"] * factor))

    def _factors(self, parts: Sequence[ParameterPart], ratios: Tensor, sizes: Tensor) -> Tensor:
        """The factor of each parameter's rate, at most 1; without a wait for the device."""
        sums = [
            ratios[part.offset : part.offset + part.length].sum(dtype=torch.float64)
            for part in parts
        ]
        total = torch.stack(sums)
        self._add_up(total)
        return (total / sizes).sqrt_().clamp_(min=1).reciprocal_().to(ratios.dtype)
