"""Muon (Jordan et al., 2024): orthogonalized momentum for the matrices of the layers, AdamW for the rest.

    momentum = mu * momentum + (1 - mu) * gradient
    update   = orthogonalize((1 - mu) * gradient + mu * momentum)       Nesterov
    matrix   = matrix - muon_lr * (weight_decay * matrix + scale * update)

Momentum and decay are elementwise, so ZeRO may cut a matrix anywhere. The iteration needs the whole
matrix. A matrix that is split over ranks is put together by one all-reduce, in which each rank adds
its part to zeros. That is exact, so every rank computes what one process would. A matrix that one rank
holds costs no communication, and only the ranks that hold a part of it orthogonalize it.

This is not DeepSpeed's Muon, whose momentum at ZeRO 1 and 2 cannot be saved and whose 16-bit iteration
differs between ZeRO stages.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial (Jordan et al., 2024): steep at zero, so small singular values grow fast."""
_EPS = 1e-7


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixPart:
    """The part of a parameter that this rank holds; it may be empty."""

    shape: tuple[int, int, int]
    """(N, R, C): the parameter is N matrices of R x C, one above the other."""
    start: int
    """First element of the part in the flattened parameter."""
    length: int
    offset: int
    """First element of the part in the flattened tensor that the optimizer steps."""
    is_split: bool
    """Whether no rank holds the whole parameter; the same on all ranks."""


Parts = Mapping[Tensor, Sequence[MatrixPart]]
"""What each tensor of the matrices' group holds, in the same order on all ranks."""


class Muon(torch.optim.AdamW):
    """Muon for groups with `"matrices": True`, AdamW for the others.

    A group of matrices also has `momentum`, `ns_steps` and `adjust_lr_fn`.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """Create it without steps for matrices: `place` must follow before the first real step."""
        super().__init__(groups, lr, betas, eps, weight_decay, fused=True)
        self._parts: Parts = {}
        self._all_reduce: Callable[[Tensor], object] = lambda _: None
        self._dtype = torch.float32

    def place(
        self, parts: Parts, all_reduce: Callable[[Tensor], object], dtype: torch.dtype
    ) -> None:
        """Tell it where the matrices are.

        Args:
            parts: The parts of each tensor that it steps.
            all_reduce: Adds a tensor over all ranks, in place.
            dtype: Of the orthogonalization.
        """
        self._parts, self._all_reduce, self._dtype = parts, all_reduce, dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step the parameters that have a gradient; all ranks must call it."""
        assert closure is None
        groups = self.param_groups
        for group in groups:
            if group.get("matrices"):
                self._step_matrices(group)
        self.param_groups = [group for group in groups if not group.get("matrices")]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for tensor in group["params"]:
            if tensor.grad is None or tensor not in self._parts:
                continue
            state = self.state[tensor]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(tensor, requires_grad=False)
            flat = [each.view(-1) for each in (tensor, tensor.grad, state["momentum_buffer"])]
            for part in self._parts[tensor]:
                weight, gradient, momentum = (
                    each[part.offset : part.offset + part.length] for each in flat
                )
                momentum.lerp_(gradient, 1 - group["momentum"])
                blended = gradient.lerp(momentum, group["momentum"])
                update = self._orthogonalized(blended, part, group["ns_steps"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * scale_of(part.shape, group["adjust_lr_fn"])
                weight.add_(update, alpha=-rate)

    def _orthogonalized(self, blended: Tensor, part: MatrixPart, steps: int) -> Tensor:
        """The same part of the orthogonalized parameter; all ranks must call it if it is split."""
        whole = blended
        if part.is_split:
            whole = blended.new_zeros(math.prod(part.shape))
            whole[part.start : part.start + part.length] = blended
            self._all_reduce(whole)
        if part.length == 0:
            return blended
        result = orthogonalize(whole.view(part.shape).to(self._dtype), steps)
        return result.reshape(-1)[part.start : part.start + part.length].to(blended.dtype)


def orthogonalize(matrices: Tensor, steps: int) -> Tensor:
    """Move all singular values of (N, R, C) matrices close to 1, by Newton-Schulz iterations.

    After five steps they are between 0.7 and 1.2, except those that were tiny.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    norms = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = x / norms.clamp_(min=_EPS)  # so no singular value is above 1
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


def scale_of(shape: tuple[int, int, int], adjust_lr_fn: str) -> float:
    """The factor of the learning rate of R x C matrices, with the names of torch.optim.Muon.

    `original` is that of Jordan et al. (2024). `match_rms_adamw` gives an update the size of AdamW's
    (Liu et al., "Muon is scalable", 2025), so that rates and decay of AdamW fit.
    """
    _, rows, columns = shape
    if adjust_lr_fn == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))
