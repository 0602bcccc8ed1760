"""Multi-head self-attention over packed tokens, within each sequence only.

There are three implementations of the same function:

- The varlen kernel (`torch.nn.attention.varlen`) takes the cumulative lengths. It runs on CUDA in 16
  bits, if `ModelConfig.supports_varlen_attention`.
- Matrix products take rows of a few lengths with a block-diagonal mask. They run on CPU, up to the
  row length whose scores fit in memory. Their backward pass is three to five times as fast there as
  that of the third implementation.
- `scaled_dot_product_attention` takes the same rows. It runs in all other cases.

Shape letters: see `embeddings.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertds.config.schema import ModelConfig

_AMPERE = (8, 0)  # compute capability
_LONGEST_PRODUCT = 256  # tokens of a row; the scores of longer ones would outgrow the activations


@dataclass(frozen=True, slots=True)
class RowGroup:
    """R rows of one length L, and their attention masks."""

    start: int
    """Number of packed tokens before the group."""
    stop: int
    length: int
    """L."""
    mask_RLL: Tensor
    """(R, 1, L, L) added to the scores: 0 within a segment, else -inf."""
    local_mask_RLL: Tensor | None
    """The same for local layers: -inf also outside the window."""


def uses_varlen_attention(config: ModelConfig, precision: str) -> bool:
    """Whether the varlen kernel computes this model on this machine.

    Args:
        config: The architecture.
        precision: `bf16`, `fp16` or `fp32`.
    """
    if not torch.cuda.is_available() or not config.supports_varlen_attention(precision):
        return False
    return torch.cuda.get_device_capability() >= _AMPERE


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of a packed batch, prepared for either kernel once per micro-batch."""

    groups: tuple[RowGroup, ...]
    """Empty for the varlen kernel."""
    cumulative: Tensor
    """(segments + 1,) int32 start of each segment, and T."""
    max_length: int
    """Tokens of the longest segment."""


def segments_of(
    segments_T: Tensor,
    cumulative: Tensor,
    max_length: int,
    rows: tuple[tuple[int, int], ...],
    window: int | None,
    dtype: torch.dtype,
) -> Segments:
    """Build the attention masks of a packed batch.

    Args:
        segments_T: (T,) index of the segment that each token belongs to.
        cumulative: (segments + 1,) start of each segment, and T.
        max_length: Tokens of the longest segment.
        rows: (number of rows, their length); empty for the varlen kernel.
        window: Width of local attention in tokens, if any layer is local.
        dtype: Of the masks.
    """
    groups, start = [], 0
    for count, length in rows:
        stop = start + count * length
        segments_RL = segments_T[start:stop].view(count, length)
        is_visible = (segments_RL[:, :, None] == segments_RL[:, None, :])[:, None]
        local_mask_RLL = None
        if window is not None:
            position_L = torch.arange(length, device=segments_T.device)
            is_near = (position_L[:, None] - position_L).abs() <= window // 2
            local_mask_RLL = _additive_mask(is_visible & is_near, dtype)
        mask_RLL = _additive_mask(is_visible, dtype)
        groups.append(RowGroup(start, stop, length, mask_RLL, local_mask_RLL))
        start = stop
    return Segments(tuple(groups), cumulative, max_length)


def _additive_mask(is_visible: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(is_visible.shape, dtype=dtype, device=is_visible.device)
    return zeros.masked_fill_(~is_visible, -math.inf)


class Attention(nn.Module):
    """Self-attention of one layer; in a `local` layer a token sees a window around it."""

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
        """(T, D) to (T, D), or to (M, D) if only M rows are selected."""
        qkv_T3HK = self.qkv(hidden_TD).view(-1, 3, self.num_heads, self.head_size)
        query_THK, key_THK, value_THK = qkv_T3HK.unbind(1)
        if rotary is not None:
            query_THK, key_THK = rotary.apply(query_THK), rotary.apply(key_THK)
            # A copy, or the values would keep the queries and keys before rotation in memory.
            value_THK = value_THK.contiguous()
        attend = self._attend_rows if segments.groups else self._attend_varlen
        attended_TD = attend(query_THK, key_THK, value_THK, segments).flatten(1)
        if selected_M is not None:
            attended_TD = attended_TD.index_select(0, selected_M)
        return self.output(attended_TD)

    def _attend_rows(
        self, query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, segments: Segments
    ) -> Tensor:
        """(T, H, K) three times to (T, H, K)."""
        sizes = [group.stop - group.start for group in segments.groups]
        # Split instead of slice: the gradient of a slice is a tensor of zeros of the full size.
        parts = zip(
            query_THK.split_with_sizes(sizes),
            key_THK.split_with_sizes(sizes),
            value_THK.split_with_sizes(sizes),
            segments.groups,
            strict=True,
        )
        return torch.cat([self._attend_group(*part) for part in parts])

    def _attend_group(self, query: Tensor, key: Tensor, value: Tensor, group: RowGroup) -> Tensor:
        """(R * L, H, K) three times to (R * L, H, K)."""
        shape = (-1, group.length, self.num_heads, self.head_size)
        query_RHLK, key_RHLK, value_RHLK = (
            heads.view(shape).transpose(1, 2) for heads in (query, key, value)
        )
        mask_RLL = group.mask_RLL if self.window is None else group.local_mask_RLL
        assert mask_RLL is not None
        dropout = self.dropout if self.training else 0.0
        if query.device.type == "cpu" and group.length <= _LONGEST_PRODUCT:
            attended_RHLK = _attend_by_products(query_RHLK, key_RHLK, value_RHLK, mask_RLL, dropout)
        else:
            attended_RHLK = F.scaled_dot_product_attention(
                query_RHLK, key_RHLK, value_RHLK, attn_mask=mask_RLL, dropout_p=dropout
            )
        return attended_RHLK.transpose(1, 2).flatten(0, 1)

    def _attend_varlen(
        self, query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, segments: Segments
    ) -> Tensor:
        """(T, H, K) three times to (T, H, K)."""
        from torch.nn.attention.varlen import varlen_attn  # CUDA only

        options: dict[str, Any] = (
            {} if self.window is None else {"window_size": (self.window // 2,) * 2}
        )
        ends, longest = segments.cumulative, segments.max_length
        attended_THK = varlen_attn(
            query_THK, key_THK, value_THK, ends, ends, longest, longest, **options
        )
        assert isinstance(attended_THK, Tensor)  # a pair only if the log-sum-exp is requested
        return attended_THK


def _attend_by_products(
    query_RHLK: Tensor, key_RHLK: Tensor, value_RHLK: Tensor, mask_RLL: Tensor, dropout: float
) -> Tensor:
    """(R, H, L, K) three times to (R, H, L, K): softmax(query key^T / sqrt(K) + mask) value.

    Vaswani et al., "Attention is all you need" (2017), equation 1.
    """
    scores = (query_RHLK * query_RHLK.shape[-1] ** -0.5) @ key_RHLK.transpose(-1, -2)
    weights = torch.softmax(scores.add_(mask_RLL), dim=-1)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    return weights @ value_RHLK


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding (Su et al., RoFormer, 2021), rotating halves as GPT-NeoX does."""

    cos_TK: Tensor
    """(T, 1, K)."""
    sin_TK: Tensor

    @classmethod
    def at(cls, positions_T: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> "Rotary":
        """Compute the rotations at (T,) positions, in 32 bits.

        The angle of pair i is position * theta ** (-2 i / K) (Su et al., section 3.2.2).
        """
        pairs = torch.arange(0, head_size, 2, device=positions_T.device, dtype=torch.float32)
        frequencies = torch.exp(pairs * (-math.log(theta) / head_size))
        angles = positions_T.float()[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return cls(angles.cos().to(dtype), angles.sin().to(dtype))

    def apply(self, heads_THK: Tensor) -> Tensor:
        """Rotate (T, H, K) queries or keys."""
        first, second = heads_THK.chunk(2, dim=-1)
        return heads_THK * self.cos_TK + torch.cat([-second, first], dim=-1) * self.sin_TK
