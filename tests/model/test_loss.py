"""The summed cross-entropy equals torch's, for every chunk size and precision."""

import pytest
import torch
import torch.nn.functional as F

from bertds.model import loss as loss_module
from bertds.model.loss import summed_cross_entropy


def torch_loss_and_gradient(logits, labels):
    """Compute the sum with torch, and the gradient of a third of it."""
    logits = logits.detach().requires_grad_()
    wide = torch.promote_types(logits.dtype, torch.float32)
    loss = F.cross_entropy(logits.to(wide), labels, reduction="sum")
    (loss / 3).backward()
    return loss.detach(), logits.grad


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)],
)
@pytest.mark.parametrize("cached", [1, 100, 1 << 20])
def test_it_equals_the_cross_entropy_of_torch(dtype, tolerance, cached, monkeypatch):
    monkeypatch.setattr(loss_module, "_CACHED_NUMBERS", cached)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(23, 37, generator=generator, dtype=torch.float64) * 5).to(dtype)
    labels = torch.randint(0, 37, (23,), generator=generator)
    before = logits.clone()
    expected, expected_gradient = torch_loss_and_gradient(logits, labels)
    logits.requires_grad_()
    loss, is_correct = summed_cross_entropy(logits, labels)
    (loss / 3).backward()
    assert loss.dtype == expected.dtype
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(logits.grad, expected_gradient, rtol=tolerance, atol=tolerance / 100)
    assert torch.equal(is_correct, logits.argmax(-1) == labels)
    assert torch.equal(logits.detach(), before)


def test_without_rows_the_sum_is_zero():
    logits = torch.zeros(0, 5, requires_grad=True)
    loss, is_correct = summed_cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert is_correct.shape == (0,)
    assert logits.grad.shape == (0, 5)
