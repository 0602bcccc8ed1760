"""The encoder: embeddings and a stack of pre-norm or post-norm layers.

Shape letters: see `embeddings.py`.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertds.config.schema import ModelConfig
from bertds.model.attention import Attention, Rotary, Segments
from bertds.model.embeddings import Embeddings, layer_norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """Two linear layers around an activation, or a gated linear unit (Shazeer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.feed_forward == "glu"
        inner = config.intermediate_size * (2 if self.gated else 1)
        self.input = nn.Linear(config.hidden_size, inner, bias=config.bias)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        inner_TF = self.input(hidden_TD)
        if self.gated:
            inner_TF, gate_TF = inner_TF.chunk(2, dim=-1)
            return self.output(self.activation(inner_TF) * gate_TF)
        return self.output(self.activation(inner_TF))


class Layer(nn.Module):
    """Attention and feed-forward, each with a residual connection and a norm."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.attention = Attention(config, local=is_local(config, number))
        self.attention_norm = attention_norm(config, number)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = layer_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_TD: Tensor,
        segments: Segments,
        rotary: Rotary | None,
        selected_M: Tensor | None,
    ) -> Tensor:
        """(T, D) to (T, D), or to (M, D) if only M rows are selected."""
        normed_TD = self.attention_norm(hidden_TD) if self.pre_norm else hidden_TD
        attended_TD = self.attention(normed_TD, segments, rotary, selected_M)
        if selected_M is not None:
            hidden_TD = hidden_TD.index_select(0, selected_M)
        hidden_TD = hidden_TD + self.dropout(attended_TD)
        if self.pre_norm:
            return hidden_TD + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_TD)))
        hidden_TD = self.attention_norm(hidden_TD)
        return self.feed_forward_norm(hidden_TD + self.dropout(self.feed_forward(hidden_TD)))


def is_local(config: ModelConfig, number: int) -> bool:
    """Whether attention in a layer is limited to a window."""
    return config.local_attention is not None and number % config.global_attn_every_n_layers != 0


def attention_norm(config: ModelConfig, number: int) -> nn.Module:
    """Build the norm of a layer's attention.

    ModernBERT's first layer has none, since the embedding is normalised (Warner et al., 2024).
    """
    skipped = config.norm == "pre" and number == 0 and not config.traits.first_attention_norm
    return nn.Identity() if skipped else layer_norm(config)


class Encoder(nn.Module):
    """Packed ids to hidden states; the last layer computes only the selected rows."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_id: int) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, vocab_size, pad_id)
        self.layers = nn.ModuleList(
            Layer(config, number) for number in range(config.num_hidden_layers)
        )
        self.norm = layer_norm(config) if config.norm == "pre" else nn.Identity()

    def forward(
        self, inputs_T: Tensor, positions_T: Tensor, segments: Segments, selected_M: Tensor
    ) -> Tensor:
        """(T,) ids and (T,) positions to (M, D), the hidden states of the selected tokens."""
        hidden_TD = self.embeddings(inputs_T, positions_T)
        rotaries = self.rotaries(positions_T, hidden_TD.dtype)
        for number, layer in enumerate(self.layers):
            rotary = rotaries[is_local(self.config, number)]
            # No layer reads the other rows of the last one, so these are not computed.
            selected = selected_M if number == len(self.layers) - 1 else None
            inputs = (hidden_TD, segments, rotary, selected)
            if self.config.gradient_checkpointing and self.training:
                hidden_TD = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                hidden_TD = layer(*inputs)
        return self.norm(hidden_TD)

    def matrices(self) -> Iterator[tuple[Tensor, int]]:
        """The weights of the linear layers, and how many matrices each stacks along its rows."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer.attention.qkv.weight, 3
            yield layer.attention.output.weight, 1
            yield layer.feed_forward.input.weight, 2 if layer.feed_forward.gated else 1
            yield layer.feed_forward.output.weight, 1

    def rotaries(self, positions_T: Tensor, dtype: torch.dtype) -> dict[bool, Rotary | None]:
        """Compute the rotations of global (False) and local (True) layers."""
        config = self.config
        if config.positions != "rope":
            return {False: None, True: None}
        thetas = {False: config.rope_theta, True: config.local_rope_theta}
        return {
            local: Rotary.at(positions_T, config.head_size, theta, dtype)
            for local, theta in thetas.items()
        }
