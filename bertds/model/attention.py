"""Multi-head self-attention over packed tokens, within each sequence only.

Three ways of the same mathematics. `torch.nn.attention.varlen` on CUDA in 16 bits takes the
cumulative lengths. Elsewhere, and where that kernel cannot (`ModelConfig.supports_varlen_attention`), rows of a
few lengths have a block-diagonal mask: on CPU by plain matrix products, whose backward pass is three
to five times as fast there as that of `scaled_dot_product_attention`, which takes rows that are too
long to keep their scores, and CUDA's. Shape letters: `embeddings.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertds.config.schema import ModelConfig

_AMPERE = (8, 0)
_LONGEST_PRODUCT = 256  # tokens of a row; the scores of longer ones would outgrow the activations


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of one length, and what their tokens see."""

    start: int
    """Tokens of the pack before it."""
    stop: int
    length: int
    """L."""
    mask_RLL: Tensor
    """(R, 1, L, L) to be added to the scores: 0 where a token sees another, else -inf."""
    local_mask_RLL: Tensor | None
    """The same inside the window of local layers."""


def uses_varlen_attention(config: ModelConfig, precision: str) -> bool:
    """Whether a model on this machine is computed by the varlen kernel, without rows.

    Args:
        config: The architecture.
        precision: `bf16`, `fp16` or `fp32`.
    """
    if not torch.cuda.is_available() or not config.supports_varlen_attention(precision):
        return False
    return torch.cuda.get_device_capability() >= _AMPERE


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the sequences of a pack lie, for either kernel; made once a micro-step."""

    groups: tuple[RowGroup, ...]
    """None: for the varlen kernel."""
    cumulative: Tensor
    """(segments + 1,) int32."""
    max_length: int
    """Longest segment."""


def segments_of(
    segments_T: Tensor,
    cumulative: Tensor,
    max_length: int,
    rows: tuple[tuple[int, int], ...],
    window: int | None,
    dtype: torch.dtype,
) -> Segments:
    """Prepare what attention needs of a pack.

    Args:
        segments_T: (T,) number of the segment that each token belongs to.
        cumulative: (segments + 1,) where each starts, and T.
        max_length: Longest segment.
        rows: (how many, of what length); none for the varlen kernel.
        window: Width of local attention in tokens, if a layer has it.
        dtype: Of the masks.
    """
    groups, start = [], 0
    for count, length in rows:
        stop = start + count * length
        groups.append(_group(segments_T[start:stop], start, length, window, dtype))
        start = stop
    return Segments(tuple(groups), cumulative, max_length)


def _group(
    segments_T: Tensor, start: int, length: int, window: int | None, dtype: torch.dtype
) -> RowGroup:
    rows_RL = segments_T.view(-1, length)
    sees = (rows_RL[:, :, None] == rows_RL[:, None, :])[:, None]
    local = None
    if window is not None:
        place_L = torch.arange(length, device=rows_RL.device)
        is_near = (place_L[:, None] - place_L).abs() <= window // 2
        local = _added(sees & is_near, dtype)
    return RowGroup(start, start + segments_T.numel(), length, _added(sees, dtype), local)


def _added(sees: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return zeros.masked_fill_(~sees, -math.inf)


class Attention(nn.Module):
    """Self-attention of one layer; `local` layers see a window around each token."""

    def __init__(self, config: ModelConfig, *, local: bool) -> None:
        super().__init__()
        self.num_heads, self.head_size = config.num_attention_heads, config.head_size
        self.window = config.local_attention if local else None
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(
        self,
        hidden_TD: Tensor,
        segments: Segments,
        rotary: "Rotary | None",
        selected_M: Tensor | None,
    ) -> Tensor:
        """(T, D) to (T, D), or to the (M, D) rows that are wanted."""
        qkv_T3HK = self.qkv(hidden_TD).view(-1, 3, self.num_heads, self.head_size)
        query_THK, key_THK, value_THK = qkv_T3HK.unbind(1)
        if rotary is not None:
            query_THK, key_THK = rotary.apply(query_THK), rotary.apply(key_THK)
        attend = self._rows if segments.groups else self._varlen
        attended_TD = attend(query_THK, key_THK, value_THK, segments).flatten(1)
        if selected_M is not None:
            attended_TD = attended_TD.index_select(0, selected_M)
        return self.output(attended_TD)

    def _rows(self, query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
        sizes = [group.stop - group.start for group in segments.groups]
        # Split, not sliced: the gradient of a slice is a whole tensor of zeros.
        queries, keys, values = (x.split_with_sizes(sizes) for x in (query, key, value))
        parts = zip(queries, keys, values, segments.groups, strict=True)
        return torch.cat([self._group(*part) for part in parts])

    def _group(self, query: Tensor, key: Tensor, value: Tensor, group: RowGroup) -> Tensor:
        """The tokens of rows of one length."""
        rows = (-1, group.length, self.num_heads, self.head_size)
        query, key, value = (x.view(rows).transpose(1, 2) for x in (query, key, value))
        mask = group.mask_RLL if self.window is None else group.local_mask_RLL
        assert mask is not None
        by_products = query.device.type == "cpu" and group.length <= _LONGEST_PRODUCT
        attend = _by_products if by_products else _by_kernel
        heads_RHLK = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        return heads_RHLK.transpose(1, 2).flatten(0, 1)

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # CUDA only

        options: dict[str, Any] = (
            {} if self.window is None else {"window_size": (self.window // 2,) * 2}
        )
        ends, longest = segments.cumulative, segments.max_length
        attended_THK = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
        assert isinstance(attended_THK, Tensor)  # a pair only where the log-sum-exp is asked for
        return attended_THK


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """(R, H, L, K) thrice to the same."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    weights = torch.softmax(scores.add_(mask), dim=-1)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    return weights @ value


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding (Su et al., RoFormer, 2021), halves turned as in GPT-NeoX."""

    cos_TK: Tensor
    sin_TK: Tensor

    @classmethod
    def at(cls, positions_T: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> "Rotary":
        """The turns at these positions, computed in 32 bits."""
        pairs = torch.arange(0, head_size, 2, device=positions_T.device, dtype=torch.float32)
        frequencies = torch.exp(pairs * (-math.log(theta) / head_size))
        angles = positions_T.float()[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return cls(angles.cos().to(dtype), angles.sin().to(dtype))

    def apply(self, heads_THK: Tensor) -> Tensor:
        """Turn queries or keys."""
        first, second = heads_THK.chunk(2, dim=-1)
        return heads_THK * self.cos_TK + torch.cat([-second, first], dim=-1) * self.sin_TK
