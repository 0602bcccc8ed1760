"""Our weights under Hugging Face's names, and back: to the byte."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertds.huggingface.architectures import Architecture, family_of
from bertds.model.embeddings import Embeddings, Sinusoids, first_position
from bertds.model.mlm import MaskedLanguageModel

Read = Callable[[str], Tensor]
_POSITIONS = "encoder.embeddings.positions.weight"


@torch.no_grad()
def to_hf_state_dict(model: MaskedLanguageModel, pad_id: int) -> dict[str, Tensor]:
    """All tensors of the class's file, views of the model's where that can be.

    Raises:
        ConfigError: No class computes what the model does.
    """
    family = family_of(model.config)
    found: dict[str, Tensor] = {}
    for name, tensor in _weights_here(model, family):
        table = _shifted(tensor, _shift(model, family, pad_id)) if name == _POSITIONS else tensor
        places = family.places(name)
        found |= zip(places, table.chunk(len(places)), strict=True)
    if family.token_types:
        shape = (family.token_type_rows, model.config.hidden_size)
        found[family.token_types] = model.head.decoder.bias.new_zeros(shape)
    if not model.config.tie_word_embeddings:
        # BERT's decoder then has a bias of its own beside that of the head, and that one is used.
        found.setdefault(family.own_decoder_bias, model.head.decoder.bias.clone())
    return found


def from_hf_state_dict(model: MaskedLanguageModel, pad_id: int, read: Read) -> dict[str, Tensor]:
    """A class's file as fp32 weights by our names, tied ones once.

    Args:
        model: What they are for, on any device, meta as well: an architecture of that class,
            positions learned, biases as the class has them.
        pad_id: The filler's id.
        read: Gives the tensor of a name of theirs.
    """
    family = family_of(model.config)
    found = {}
    for name, _ in model.named_parameters():
        found[name] = torch.cat([read(place).float() for place in family.places(name)])
    if family.token_types:
        table = _with_token_type(found[_POSITIONS], family, read)
        found[_POSITIONS] = _shifted(table, -_shift(model, family, pad_id))
    return found


def _weights_here(model: MaskedLanguageModel, family: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Our parameters, and what the class has beyond them: zero biases, a table of positions."""
    given = dict(model.named_parameters())
    yield from given.items()
    embeddings: Embeddings = model.encoder.embeddings
    if isinstance(embeddings.positions, Sinusoids):
        yield _POSITIONS, embeddings.positions.table
    for name, module in model.named_modules():
        has_bias = isinstance(module, nn.Linear | nn.LayerNorm)
        if has_bias and family.always_biased and f"{name}.bias" not in given:
            weight = given[f"{name}.weight"]
            yield f"{name}.bias", weight.new_zeros(weight.shape[0])


def _shift(model: MaskedLanguageModel, family: Architecture, pad_id: int) -> int:
    """Rows of their table of positions before ours begins."""
    return family.first_position(pad_id) - first_position(model.config, pad_id)


def _shifted(table: Tensor, rows: int) -> Tensor:
    """A (positions, hidden) table with so many rows more at its start, unread ones; or less."""
    return F.pad(table, (0, 0, rows, 0)) if rows > 0 else table[-rows:]


def _with_token_type(table: Tensor, family: Architecture, read: Read) -> Tensor:
    """Their vector of the first token type goes to every token, so a row of positions holds it."""
    first = read(family.token_types)[0].float()
    return table + first if first.any() else table
