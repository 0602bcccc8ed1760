"""Masked language model: the encoder, a head on the masked positions only, and the summed loss.

    ids (T,) --encoder--> hidden states (M, D) --head--> logits (M, V) --> sums

Nothing is averaged here. The loss of a step is the mean over all masked tokens of the global batch.
A micro-batch does not know their number, so it returns sums. Shape letters: see `embeddings.py`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from bertds.config.schema import ModelConfig
from bertds.model.attention import segments_of
from bertds.model.batch import DeviceBatch
from bertds.model.embeddings import layer_norm
from bertds.model.encoder import ACTIVATIONS, Encoder
from bertds.model.loss import summed_cross_entropy

UNUSED_BIAS = -1e4
"""Output bias of ids beyond the tokenizer. Their probability and gradients are then exactly 0, also
in fp16, and the exported model does not predict them either."""


class MlmHead(nn.Module):
    """The prediction head: dense layer, activation, norm, and the decoder over the vocabulary."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        is_gelu = config.traits.gelu_in_head
        self.activation = F.gelu if is_gelu else ACTIVATIONS[config.hidden_act]
        self.norm = layer_norm(config)
        self.decoder = nn.Linear(config.hidden_size, vocab_size)

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """(M, D) to logits (M, V)."""
        return self.decoder(self.norm(self.activation(self.dense(hidden_MD))))


class MaskedLanguageModel(nn.Module):
    """The model that is trained: encoder and head."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_id: int) -> None:
        """Build with random weights from torch's global generator.

        Args:
            config: The architecture.
            vocab_size: Number of ids of the tokenizer; V is this number, padded as the config asks.
            pad_id: Id of padding tokens.
        """
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        rows = config.padded_vocab_size(vocab_size)
        self.encoder = Encoder(config, rows, pad_id)
        self.head = MlmHead(config, rows)
        self.cross_entropy = summed_cross_entropy
        self.apply(self._initialise)
        nn.init.constant_(self.head.decoder.bias[vocab_size:], UNUSED_BIAS)
        if config.tie_word_embeddings:
            self.head.decoder.weight = self.encoder.embeddings.tokens.weight

    def _initialise(self, module: nn.Module) -> None:
        """Draw normal weights and set biases to zero (Devlin et al., BERT, 2019)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def hidden_matrices(self) -> dict[str, int]:
        """The names of the matrices of the encoder's layers, and how many each parameter stacks.

        They map hidden states to hidden states. Embeddings, norms, biases and the head do not.
        """
        names: dict[Tensor, str] = {each: name for name, each in self.named_parameters()}
        return {names[weight]: stacked for weight, stacked in self.encoder.matrices()}

    def hidden_states(self, pack: DeviceBatch) -> Tensor:
        """Compute the (M, D) hidden states at the masked positions."""
        config = self.config
        window = config.local_attention if config.global_attn_every_n_layers > 1 else None
        dtype = self.head.dense.weight.dtype
        segments = segments_of(
            pack.segments_T, pack.cumulative, pack.max_length, pack.rows, window, dtype
        )
        return self.encoder(pack.inputs_T, pack.positions_T, segments, pack.masked_M)

    def logits(self, pack: DeviceBatch) -> Tensor:
        """Compute the (M, V) logits at the masked positions."""
        return self.head(self.hidden_states(pack))

    def forward(self, pack: DeviceBatch) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats, summed over the M masked tokens, with gradient; (M,) correct or not."""
        return self.cross_entropy(self.logits(pack), pack.labels_M)
