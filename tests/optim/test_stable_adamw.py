"""StableAdamW equals its definition, and AdamW while no gradient outgrows its history."""

import pytest
import torch
from torch import Tensor

from bertds.optim.stable_adamw import ParameterPart, StableAdamW

SHAPES = [(6, 4), (5,), (3, 7)]
BETAS, EPS, LR, DECAY = (0.9, 0.99), 1e-6, 0.01, 0.1


def flat_optimizer(starts: list[Tensor]) -> tuple[Tensor, StableAdamW]:
    """All parameters in one flat tensor with padding, as at ZeRO 1 and 2."""
    flat = torch.cat([start.view(-1) for start in starts] + [torch.zeros(3)])
    optimizer = StableAdamW([{"params": [flat]}], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    parts, offset = [], 0
    for start in starts:
        size = start.numel()
        parts.append(ParameterPart(size=size, length=size, offset=offset))
        offset += size
    optimizer.place({flat: parts}, lambda _: None)
    return flat, optimizer


def reference(start: Tensor, gradients: list[Tensor]) -> tuple[Tensor, float]:
    """Algorithm 2 of Wortsman et al. (2023) in float64; also the largest RMS."""
    weight, v, u = start.double(), torch.zeros(()), torch.zeros(())
    largest = 0.0
    for step, gradient in enumerate(gradients, 1):
        g = gradient.double()
        beta1, beta2 = (beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in BETAS)
        v, u = beta1 * v + (1 - beta1) * g, beta2 * u + (1 - beta2) * g**2
        rms = float((g**2 / u.clamp(min=EPS**2)).mean().sqrt())
        largest = max(largest, rms)
        rate = LR / max(1.0, rms)
        weight = weight - rate * DECAY * weight - rate * v / (u.sqrt() + EPS)
    return weight, largest


@pytest.mark.parametrize("growth", [3.0, 0.5])
def test_steps_equal_the_definition(growth: float) -> None:
    """Growing gradients are clipped for each parameter; shrinking ones give AdamW."""
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in SHAPES]
    scales = (1.0, 10.0, 0.1)
    gradients = [
        [
            growth**step * scale * torch.randn(shape, generator=generator).abs_().clamp_(min=0.5)
            for scale, shape in zip(scales, SHAPES, strict=True)
        ]
        for step in range(6)
    ]
    flat, optimizer = flat_optimizer(starts)
    plain = [torch.nn.Parameter(start.clone()) for start in starts]
    adamw = torch.optim.AdamW(plain, lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    for step in gradients:
        flat.grad = torch.cat([gradient.view(-1) for gradient in step] + [torch.zeros(3)])
        optimizer.step()
        for parameter, gradient in zip(plain, step, strict=True):
            parameter.grad = gradient
        adamw.step()
    offset = 0
    for number, start in enumerate(starts):
        ours = flat[offset : offset + start.numel()].view(start.shape)
        expected, rms = reference(start, [step[number] for step in gradients])
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
        is_adamw = torch.allclose(ours, plain[number], rtol=1e-5, atol=1e-6)
        assert (rms > 1.5, is_adamw) == ((True, False) if growth > 1 else (False, True))
        offset += start.numel()
    assert not flat[offset:].any()
