"""Kernels on a CPU for torch's varlen attention, whose operators torch implements for CUDA alone.

Importing this module registers them in this process. They compute one sequence after another, so
they share no code and no mask with the attention over rows. The backward pass is that of flash
attention: it reads the output and the log-sum-exp of the forward pass (Dao et al., 2022, section 3).
They reject what the kernels of a GPU reject, except for 32 and 64 bits.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

calls: Counter[str] = Counter()
"""How often each pass was computed here."""


def _check(queries_keys_values: list[Tensor], cumulative: list[Tensor], longest: list[int]) -> None:
    shape, dtype = queries_keys_values[0].shape, queries_keys_values[0].dtype
    for heads in queries_keys_values:
        assert (heads.shape, heads.dtype) == (shape, dtype)
        assert heads.stride(-1) == 1
    assert shape[-1] % 8 == 0
    assert shape[-1] <= 256
    for ends, longest_length in zip(cumulative, longest, strict=True):
        assert ends.dtype == torch.int32
        assert ends.is_contiguous()
        assert int(ends[0]) == 0
        assert int(ends[-1]) == shape[0]
        assert int(ends.diff().min()) > 0
        assert int(ends.diff().max()) == longest_length
    assert torch.equal(*cumulative)


def _sequences(cumulative: Tensor, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Cut (T, H, K) tensors into sequences, as (H, L, K) in at least 32 bits."""
    for start, stop in itertools.pairwise(cumulative.tolist()):
        parts = (tensor[start:stop].transpose(0, 1) for tensor in tensors)
        yield [part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts]


def _scores(query: Tensor, key: Tensor, scale: float | None, window: tuple[int, int]) -> Tensor:
    """(H, L, L) scaled products; -inf outside the window, whose sides count tokens, or are -1."""
    scores = query @ key.transpose(1, 2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    place = torch.arange(query.shape[1])
    distance = place - place[:, None]  # of a key from its query
    left, right = window
    is_hidden = torch.zeros_like(distance, dtype=torch.bool)
    if left >= 0:
        is_hidden |= distance < -left
    if right >= 0:
        is_hidden |= distance > right
    return scores.masked_fill(is_hidden, -torch.inf)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int = -1,
    window_size_right: int = -1,
    **unused: Any,  # keywords that newer versions of torch add
) -> tuple[Tensor, ...]:
    _check([query, key, value], [cum_seq_q, cum_seq_k], [max_q, max_k])
    assert not (dropout_p or is_causal or return_debug_mask)
    assert all(argument is None for argument in unused.values())
    calls["forward"] += 1
    outputs, log_sums = [], []
    for q, k, v in _sequences(cum_seq_q, query, key, value):
        scores = _scores(q, k, scale, (window_size_left, window_size_right))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1).to(query.dtype))
        log_sums.append(scores.logsumexp(-1))
    empty = query.new_empty(0)
    rng_state = torch.zeros(2, dtype=torch.uint64)
    return torch.cat(outputs), torch.cat(log_sums, dim=1), rng_state, empty, empty.clone()


def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *_: Any,  # no dropout, no causal mask
    scale: float | None = None,
    window_size_left: int = -1,
    window_size_right: int = -1,
) -> tuple[Tensor, ...]:
    _check([query, key, value, out], [cum_seq_q, cum_seq_k], [max_q, max_k])
    calls["backward"] += 1
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    gradients: list[list[Tensor]] = [[], [], []]
    sequences = _sequences(cum_seq_q, gradient, query, key, value, out)
    log_sums = logsumexp.split(cum_seq_q.diff().tolist(), dim=1)
    for (g, q, k, v, o), log_sum in zip(sequences, log_sums, strict=True):
        scores = _scores(q, k, scale, (window_size_left, window_size_right))
        weights = (scores - log_sum[..., None]).exp()
        slope = g @ v.transpose(1, 2) - (g * o).sum(-1, keepdim=True)
        slope = weights * slope * factor
        found = (slope @ k, slope.transpose(1, 2) @ q, weights.transpose(1, 2) @ g)
        for parts, part in zip(gradients, found, strict=True):
            parts.append(part.transpose(0, 1).to(query.dtype))
    return tuple(torch.cat(parts) for parts in gradients)


# Kept alive: the kernels go with the library.
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("_flash_attention_forward", _forward, "CPU")
_LIBRARY.impl("_flash_attention_backward", _backward, "CPU")
