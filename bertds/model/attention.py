"""Multi-head self-attention over packed tokens, within each sequence only.

Two ways of the same mathematics: `torch.nn.attention.varlen` on CUDA in 16 bits, which takes the
cumulative lengths; `scaled_dot_product_attention` with a block-diagonal mask over rows elsewhere,
and where attention has dropout, which the former lacks. Shape letters: `embeddings.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertds.case.config import ModelConfig


def takes_varlen(config: ModelConfig, precision: str) -> bool:
    """Whether a model on this machine is computed by the varlen kernel, without rows.

    Args:
        config: The architecture.
        precision: `bf16`, `fp16` or `fp32`.
    """
    has_dropout = config.attention_probs_dropout_prob > 0
    return torch.cuda.is_available() and precision != "fp32" and not has_dropout


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the sequences of a pack lie, for either kernel; made once a micro-step."""

    row_length: int
    """Tokens of a row; 0: for the varlen kernel."""
    cumulative: Tensor
    """(segments + 1,) int32."""
    max_length: int
    """Longest segment."""
    mask_RLL: Tensor | None
    """(R, 1, L, L) True where a token sees another; rows only."""
    local_mask_RLL: Tensor | None
    """The same inside the window of local layers."""


def segments_of(
    segments_T: Tensor, cumulative: Tensor, max_length: int, row_length: int, window: int | None
) -> Segments:
    """Prepare what attention needs of a pack.

    Args:
        segments_T: (T,) number of the segment that each token belongs to.
        cumulative: (segments + 1,) where each starts, and T.
        max_length: Longest segment.
        row_length: L, or 0 for the varlen kernel.
        window: Width of local attention in tokens, if a layer has it.
    """
    if row_length == 0:
        return Segments(0, cumulative, max_length, None, None)
    rows_RL = segments_T.view(-1, row_length)
    mask = (rows_RL[:, :, None] == rows_RL[:, None, :])[:, None]
    local = None
    if window is not None:
        place_L = torch.arange(row_length, device=rows_RL.device)
        local = mask & ((place_L[:, None] - place_L).abs() <= window // 2)
    return Segments(row_length, cumulative, max_length, mask, local)


class Attention(nn.Module):
    """Self-attention of one layer; `local` layers see a window around each token."""

    def __init__(self, config: ModelConfig, *, local: bool) -> None:
        super().__init__()
        self.num_heads, self.head_size = config.num_attention_heads, config.head_size
        self.window = config.local_attention if local else None
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden_TD: Tensor, segments: Segments, rotary: "Rotary | None") -> Tensor:
        """(T, D) to (T, D)."""
        qkv_T3HK = self.qkv(hidden_TD).view(-1, 3, self.num_heads, self.head_size)
        query_THK, key_THK, value_THK = qkv_T3HK.unbind(1)
        if rotary is not None:
            query_THK, key_THK = rotary.turn(query_THK), rotary.turn(key_THK)
        attend = self._rows if segments.row_length else self._varlen
        return self.output(attend(query_THK, key_THK, value_THK, segments).flatten(1))

    def _rows(self, query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
        mask = segments.mask_RLL if self.window is None else segments.local_mask_RLL
        rows = (-1, segments.row_length, self.num_heads, self.head_size)
        query, key, value = (x.reshape(rows).transpose(1, 2) for x in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        heads_RHLK = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        return heads_RHLK.transpose(1, 2).reshape(-1, self.num_heads, self.head_size)

    def _varlen(self, query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # CUDA only

        options: dict[str, Any] = (
            {} if self.window is None else {"window_size": (self.window // 2,) * 2}
        )
        ends, longest = segments.cumulative, segments.max_length
        attended_THK = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
        assert isinstance(attended_THK, Tensor)  # a pair only where the log-sum-exp is asked for
        return attended_THK


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

    def turn(self, heads_THK: Tensor) -> Tensor:
        """Turn queries or keys."""
        first, second = heads_THK.chunk(2, dim=-1)
        return heads_THK * self.cos_TK + torch.cat([-second, first], dim=-1) * self.sin_TK
