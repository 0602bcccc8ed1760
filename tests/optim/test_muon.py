"""Muon's update equals its definition, and a step equals that of torch.optim.Muon."""

import pytest
import torch
from torch import Tensor

from bertds.optim.muon import COEFFICIENTS, MatrixPart, Muon, orthogonalize

SHAPES = [(1, 12, 12), (1, 20, 7), (1, 5, 16), (3, 8, 8), (2, 9, 4)]


def by_singular_values(matrix: Tensor, steps: int) -> Tensor:
    """The polynomial applied to the singular values, in float64."""
    a, b, c = COEFFICIENTS
    u, s, v = torch.linalg.svd(matrix.double() / matrix.double().norm(), full_matrices=False)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 5])
def test_the_polynomial_is_applied_to_the_singular_values(
    shape: tuple[int, int, int], steps: int
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    result = orthogonalize(matrices, steps)
    for matrix, ours in zip(matrices, result, strict=True):
        torch.testing.assert_close(
            ours.double(), by_singular_values(matrix, steps), rtol=1e-3, atol=1e-5
        )


def test_zero_gradients_stay_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4), 5), torch.zeros(2, 3, 4))


def optimizer_of(weight: Tensor, shape: tuple[int, int, int], adjust_lr_fn: str) -> Muon:
    group = {
        "params": [weight],
        "matrices": True,
        "lr": 0.1,
        "weight_decay": 0.2,
        "momentum": 0.9,
        "ns_steps": 5,
        "adjust_lr_fn": adjust_lr_fn,
    }
    optimizer = Muon([group], lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=9.0)
    part = MatrixPart(shape=shape, start=0, length=weight.numel(), offset=0, is_split=False)
    optimizer.place({weight: [part]}, lambda _: None, torch.float32)
    return optimizer


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_equal_those_of_torch(
    shape: tuple[int, int, int], adjust_lr_fn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Momentum, Nesterov, scale and decay; stacked matrices are stepped one by one."""
    monkeypatch.setattr(
        "torch.optim._muon._zeropower_via_newtonschulz",  # it rounds to bf16
        lambda update, _coefficients, steps, _eps: by_singular_values(update, steps).float(),
    )
    generator = torch.Generator().manual_seed(1)
    stacked, rows, columns = shape
    start = torch.randn(stacked * rows, columns, generator=generator)
    ours = torch.nn.Parameter(start.clone())
    theirs = [torch.nn.Parameter(each.clone()) for each in start.view(shape)]
    optimizer = optimizer_of(ours, shape, adjust_lr_fn)
    settings = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9, "adjust_lr_fn": adjust_lr_fn}
    reference = torch.optim.Muon(theirs, **settings)
    for _ in range(3):
        gradient = torch.randn(stacked * rows, columns, generator=generator)
        ours.grad = gradient.clone()
        for one, part in zip(theirs, gradient.view(shape), strict=True):
            one.grad = part.clone()
        optimizer.step()
        reference.step()
    expected = torch.cat([one.detach() for one in theirs])
    torch.testing.assert_close(ours.detach(), expected, rtol=0, atol=1e-5)
    assert float((expected - start).abs().max()) > 0.01
