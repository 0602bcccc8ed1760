"""Summed cross-entropy over a large vocabulary, a few rows at a time.

16-bit logits are converted to 32 bits chunk by chunk. So a chunk stays in the processor's cache, and
no 32-bit copy of all logits, their softmax or their gradient is made. On a GPU a chunk is large enough
to fill the device. Shape letters: see `embeddings.py`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CACHED_NUMBERS = 1 << 20  # 4 MiB in 32 bits
_NUMBERS_ON_GPU = 1 << 26  # 256 MiB in 32 bits


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropy in nats, and which labels are the most likely ids."""

    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(logits_MV.dtype, torch.float32)
        log_sums_M = logits_MV.new_empty(labels_M.shape, dtype=wide)
        is_correct_M = torch.empty_like(labels_M, dtype=torch.bool)
        numbers = _NUMBERS_ON_GPU if logits_MV.is_cuda else _CACHED_NUMBERS
        ctx.chunk = max(1, numbers // logits_MV.shape[1])
        for logits, labels, log_sums, is_correct in _chunks(
            ctx.chunk, logits_MV, labels_M, log_sums_M, is_correct_M
        ):
            wide_logits = logits.to(wide)
            torch.logsumexp(wide_logits, dim=-1, out=log_sums)
            torch.eq(wide_logits.argmax(-1), labels, out=is_correct)
        ctx.save_for_backward(logits_MV, labels_M, log_sums_M)
        ctx.mark_non_differentiable(is_correct_M)
        label_logits_M = logits_MV.gather(1, labels_M[:, None])[:, 0].to(wide)
        return (log_sums_M - label_logits_M).sum(), is_correct_M

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Gradient of the sum: softmax(logits) - one_hot(labels)."""
        logits_MV, labels_M, log_sums_M = ctx.saved_tensors
        gradient_MV = torch.empty_like(logits_MV)
        for logits, labels, log_sums, out in _chunks(
            ctx.chunk, logits_MV, labels_M, log_sums_M, gradient_MV
        ):
            slope = (logits - log_sums[:, None]).exp_()
            slope.scatter_add_(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))
            out.copy_(slope.mul_(gradients[0]))
        return gradient_MV, None


def summed_cross_entropy(logits_MV: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy in nats, with gradient, and tell which predictions are correct.

    Args:
        logits_MV: (M, V) of any precision; the sum has at least 32 bits.
        labels_M: (M,) ids.

    Returns:
        The sum, and (M,) booleans.
    """
    loss, is_correct_M = _SummedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits_MV, labels_M
    )
    return loss, is_correct_M


def unchunked_cross_entropy(logits_MV: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same for all rows at once, in operations that a compiler fuses, without copies."""
    wide_logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    is_correct_M = wide_logits_MV.detach().argmax(-1) == labels_M
    return F.cross_entropy(wide_logits_MV, labels_M, reduction="sum"), is_correct_M


def _chunks(size: int, *tensors: Tensor) -> "zip[tuple[Tensor, ...]]":
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
