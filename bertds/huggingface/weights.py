"""Converts weights between our parameter names and Hugging Face's, bit-exact both ways."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertds.huggingface.architectures import Architecture, architecture_of
from bertds.model.embeddings import Embeddings, Sinusoids, first_position
from bertds.model.mlm import UNUSED_BIAS, MaskedLanguageModel

ReadTensor = Callable[[str], Tensor]
_POSITIONS = "encoder.embeddings.positions.weight"


@torch.no_grad()
def to_hf_state_dict(model: MaskedLanguageModel, pad_id: int) -> dict[str, Tensor]:
    """All tensors of the Hugging Face class; views of the model's tensors where possible.

    Raises:
        ConfigError: No class computes the same function as the model.
    """
    architecture = architecture_of(model.config)
    state: dict[str, Tensor] = {}
    for name, tensor in _all_tensors(model, architecture):
        if name == _POSITIONS:
            tensor = _shift_rows(tensor, _position_offset(model, architecture, pad_id))
        hf_names = architecture.hf_names(name)
        state |= zip(hf_names, tensor.chunk(len(hf_names)), strict=True)
    bias = model.head.decoder.bias
    if architecture.token_types and not model.config.type_vocab_size:
        shape = (architecture.token_type_rows, model.config.hidden_size)
        state[architecture.token_types] = bias.new_zeros(shape)
    if not model.config.tie_word_embeddings:
        # BERT's decoder module then has its own bias, and uses that one.
        state.setdefault(architecture.decoder_module_bias, bias.clone())
    return state


def from_hf_state_dict(
    model: MaskedLanguageModel, pad_id: int, read: ReadTensor, *, has_head: bool = True
) -> dict[str, Tensor]:
    """Convert the tensors of a Hugging Face class to fp32 weights by our names, tied weights once.

    Args:
        model: The model to convert for, on any device, also meta. Its positions must be learned,
            and it must have a bias wherever the class has one.
        pad_id: The padding token's id.
        read: Returns the tensor with a Hugging Face name.
        has_head: Whether the class has a head for masked tokens; otherwise ours is left out.
    """
    architecture = architecture_of(model.config)
    weights = {}
    for name, _ in model.named_parameters():
        if has_head or not name.startswith("head."):
            parts = [read(hf_name).float() for hf_name in architecture.hf_names(name)]
            weights[name] = torch.cat(parts)
    if has_head:
        weights["head.decoder.bias"][model.vocab_size :] = UNUSED_BIAS
    if architecture.token_types and not model.config.type_vocab_size:
        # Every token has type 0, whose vector is added to every position instead.
        token_type = read(architecture.token_types)[0].float()
        if token_type.any():
            weights[_POSITIONS] = weights[_POSITIONS] + token_type
    if _POSITIONS in weights:
        offset = _position_offset(model, architecture, pad_id)
        weights[_POSITIONS] = _shift_rows(weights[_POSITIONS], -offset)
    return weights


def _all_tensors(
    model: MaskedLanguageModel, architecture: Architecture
) -> Iterator[tuple[str, Tensor]]:
    """Our parameters, and what only the class has as parameters: zero biases, a position table."""
    parameters = dict(model.named_parameters())
    yield from parameters.items()
    embeddings: Embeddings = model.encoder.embeddings
    if isinstance(embeddings.positions, Sinusoids):
        yield _POSITIONS, embeddings.positions.table
    for name, module in model.named_modules():
        can_have_bias = isinstance(module, nn.Linear | nn.LayerNorm)
        if can_have_bias and architecture.always_biased and f"{name}.bias" not in parameters:
            weight = parameters[f"{name}.weight"]
            yield f"{name}.bias", weight.new_zeros(weight.shape[0])


def _position_offset(model: MaskedLanguageModel, architecture: Architecture, pad_id: int) -> int:
    """Rows of the class's position table before the first row of ours."""
    return architecture.first_position(pad_id) - first_position(model.config, pad_id)


def _shift_rows(table: Tensor, rows: int) -> Tensor:
    """Prepend this many zero rows to a (positions, hidden) table, or drop rows if negative."""
    return F.pad(table, (0, 0, rows, 0)) if rows > 0 else table[-rows:]
