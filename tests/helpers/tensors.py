"""Small models and packs of random text for them."""

import dataclasses
from typing import Any

import numpy as np
import torch

from bertds.config.schema import ModelConfig
from bertds.data.packing import MaskedSequences, PackedBatch, pack
from bertds.model.batch import DeviceBatch
from bertds.model.mlm import MaskedLanguageModel

torch.set_num_threads(1)  # the tensors are tiny
VOCAB, PAD, MASK, ROW = 50, 0, 4, 32
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": ROW,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.3,  # far from the region where everything is linear
}


def make_model(seed: int = 0, **fields: Any) -> MaskedLanguageModel:
    """A small model in float64 whose norms and biases are random, too."""
    torch.manual_seed(seed)
    config = ModelConfig.model_validate(SMALL | fields)
    model = MaskedLanguageModel(config, VOCAB, PAD).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm.weight" in name))
    return model


def make_sequences(lengths: list[int], seed: int = 0) -> list[MaskedSequences]:
    """Random sequences of these lengths, some tokens of each masked."""
    generator = np.random.default_rng(seed)
    found = []
    for length in lengths:
        tokens = generator.integers(5, VOCAB, length)
        masked = np.sort(generator.choice(length, 1 + length // 5, replace=False))
        found.append(sequence_of(tokens, masked))
    return found


def sequence_of(tokens: np.ndarray, masked: np.ndarray) -> MaskedSequences:
    """One sequence, `[MASK]` at the masked places."""
    inputs = tokens.copy()
    inputs[masked] = MASK
    lengths = np.array([tokens.size])
    return MaskedSequences.masked_at(masked, tokens=tokens, inputs=inputs, lengths=lengths)


EMPTY = np.empty(0, np.int64)
NOTHING = MaskedSequences.masked_at(EMPTY, tokens=EMPTY, inputs=EMPTY, lengths=EMPTY)


@torch.no_grad()
def guess_some(model: MaskedLanguageModel, parts: list[MaskedSequences]) -> list[MaskedSequences]:
    """The same with every second label changed to the model's guess, so that some are right."""
    found = []
    for part, padded in zip(parts, as_padded(parts), strict=True):
        tokens = part.tokens.copy()
        tokens[np.flatnonzero(part.is_masked)[::2]] = model.logits(padded).argmax(-1)[::2].numpy()
        found.append(dataclasses.replace(part, tokens=tokens))
    return found


def as_rows(parts: list[MaskedSequences]) -> DeviceBatch:
    """Several sequences a row."""
    return tensors_of(pack(MaskedSequences.concatenate(parts), row_length=ROW, pad_id=PAD))


def as_padded(parts: list[MaskedSequences]) -> list[DeviceBatch]:
    """One sequence a row, and one row a pack."""
    return [tensors_of(pack(part, row_length=ROW, pad_id=PAD)) for part in parts]


def as_one_row(parts: list[MaskedSequences]) -> DeviceBatch:
    """The layout of the varlen kernel, read by the kernel of rows: all tokens are one row."""
    flat = pack(MaskedSequences.concatenate(parts), row_length=0, pad_id=PAD, multiple=16)
    return tensors_of(flat, rows=((1, flat.inputs.size),))


def tensors_of(one: PackedBatch, rows: tuple[tuple[int, int], ...] = ()) -> DeviceBatch:
    """A pack as tensors."""
    return DeviceBatch(
        inputs_T=torch.from_numpy(one.inputs),
        positions_T=torch.from_numpy(one.positions),
        segments_T=torch.from_numpy(one.segments),
        cumulative=torch.from_numpy(one.cumulative),
        masked_M=torch.from_numpy(one.masked),
        labels_M=torch.from_numpy(one.labels),
        rows=rows or one.rows,
        max_length=one.max_length,
    )


def figures(model: MaskedLanguageModel, packs: list[DeviceBatch]) -> dict[str, torch.Tensor]:
    """Loss, correct tokens and all gradients, summed over packs."""
    model.zero_grad()
    sums = {"loss": torch.zeros(()), "correct": torch.zeros(())}
    for one in packs:
        loss, correct = model(one)
        loss.backward()
        sums = {"loss": sums["loss"] + loss.detach(), "correct": sums["correct"] + correct}
    named = dict(model.named_parameters())
    return sums | {name: one.grad.clone() for name, one in named.items() if one.grad is not None}


def assert_equal(ones: dict[str, torch.Tensor], others: dict[str, torch.Tensor], tolerance: float):
    """Equal to a tolerance that is relative to each tensor's largest entry."""
    assert ones.keys() == others.keys()
    for name, one in ones.items():
        scale = one.abs().max()
        assert scale > 0, name
        assert (one - others[name]).abs().max() <= tolerance * scale, name
