"""Token and position embeddings of packed tokens.

Shape letters in `bertds/model/`: T packed tokens, R rows, L row length, D hidden size, H heads,
K head size, F feed-forward size, V vocabulary size, M masked positions.
"""

import math

import torch
from torch import Tensor, nn

from bertds.config.schema import ModelConfig


class Embeddings(nn.Module):
    """Sum of token, token type and position embedding, then norm and dropout."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_id: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, config.hidden_size)
        self.positions = position_table(config, pad_id)
        self.offset = first_position(config, pad_id)
        types, size = config.type_vocab_size, config.hidden_size
        self.token_types = TokenTypes(types, size) if types else None
        self.norm = layer_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inputs_T: Tensor, positions_T: Tensor) -> Tensor:
        """(T,) ids and (T,) positions, counted from 0, to (T, D)."""
        hidden_TD = self.tokens(inputs_T)
        if self.token_types is not None:
            hidden_TD = self.token_types(hidden_TD)
        if self.positions is not None:
            # DeepSpeed casts parameters to 16 bits, but not buffers such as the sinusoids.
            added_TD = self.positions(positions_T + self.offset)
            hidden_TD = hidden_TD + added_TD.to(hidden_TD.dtype)
        return self.dropout(self.norm(hidden_TD))


class TokenTypes(nn.Embedding):
    """The table of token types (segments); every token of a single text has type 0."""

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """Add the row of type 0 to each of the (T, D) token embeddings."""
        return hidden_TD + self.weight[0]


def first_position(config: ModelConfig, pad_id: int) -> int:
    """Return the row of the position table for the first token of a sequence."""
    has_offset = config.traits.counts_positions_from_pad and config.positions == "learned"
    return pad_id + 1 if has_offset else 0


def position_table(config: ModelConfig, pad_id: int) -> nn.Module | None:
    """Build the module that maps (T,) positions to (T, D): learned, sinusoidal, or None for RoPE."""
    rows = config.max_position_embeddings + first_position(config, pad_id)
    if config.positions == "learned":
        return nn.Embedding(rows, config.hidden_size)
    if config.positions == "sinusoidal":
        return Sinusoids(rows, config.hidden_size, config.position_scale)
    return None


class Sinusoids(nn.Module):
    """Sinusoidal positions (Vaswani et al., "Attention is all you need", 2017, section 3.5).

    The paper multiplies the token embedding by sqrt(hidden_size) before it adds the table. Here the
    table is multiplied by `scale` instead, because a norm follows.
    """

    table: Tensor

    def __init__(self, num_positions: int, hidden_size: int, scale: float = 1.0) -> None:
        super().__init__()
        positions = torch.arange(num_positions, dtype=torch.float32)[:, None]
        pairs = torch.arange(0, hidden_size, 2, dtype=torch.float32)
        angles = positions * torch.exp(pairs * (-math.log(10_000.0) / hidden_size))
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :hidden_size]
        self.register_buffer("table", table * scale, persistent=False)

    def forward(self, positions_T: Tensor) -> Tensor:
        """(T,) positions to (T, D)."""
        return self.table[positions_T]


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """Build the layer norm that the config describes, over D."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.bias)
