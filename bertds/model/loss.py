"""Sums of cross-entropy over a large vocabulary, a few rows at a time.

Logits in 16 bits are read as 32 bits where they are needed and nowhere kept so: the rows in work
stay in the processor's cache, and no copy of all logits, their soft-max or its gradient is made.
Letters: `embeddings.py`.
"""

from typing import Any

import torch
from torch import Tensor

_CACHED_NUMBERS = 1 << 20  # 4 MiB in 32 bits


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum in nats with its gradient, and how many labels are the most likely ids."""

    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(logits_MV.dtype, torch.float32)
        log_sums_M = logits_MV.new_empty(labels_M.shape, dtype=wide)
        correct = labels_M.new_zeros(())
        ctx.rows = _rows_at_once(logits_MV)
        for logits, labels, log_sums in _chunks(ctx.rows, logits_MV, labels_M, log_sums_M):
            wide_logits = logits.to(wide)
            torch.logsumexp(wide_logits, dim=-1, out=log_sums)
            correct += (wide_logits.argmax(-1) == labels).sum()
        ctx.save_for_backward(logits_MV, labels_M, log_sums_M)
        ctx.mark_non_differentiable(correct)
        chosen_M = logits_MV.gather(1, labels_M[:, None])[:, 0].to(wide)
        return (log_sums_M - chosen_M).sum(), correct

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits_MV, labels_M, log_sums_M = ctx.saved_tensors
        gradient_MV = torch.empty_like(logits_MV)
        for logits, labels, log_sums, out in _chunks(
            ctx.rows, logits_MV, labels_M, log_sums_M, gradient_MV
        ):
            slope = (logits - log_sums[:, None]).exp_()
            slope.scatter_add_(1, labels[:, None], slope.new_full((len(labels), 1), -1.0))
            out.copy_(slope.mul_(gradients[0]))
        return gradient_MV, None


def summed_cross_entropy(logits_MV: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropy in nats (with gradient), and the number of correct guesses.

    Args:
        logits_MV: Of any precision; the sum has at least 32 bits.
        labels_M: Ids.
    """
    loss, correct = _SummedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits_MV, labels_M
    )
    return loss, correct


def _rows_at_once(logits_MV: Tensor) -> int:
    """As many as a CPU's cache holds; a GPU is served best by all."""
    num_rows, vocab_size = logits_MV.shape
    return max(1, num_rows if logits_MV.is_cuda else _CACHED_NUMBERS // vocab_size)


def _chunks(rows: int, *tensors: Tensor) -> "zip[tuple[Tensor, ...]]":
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
