"""Small models, and packed batches of random sequences for them."""

import dataclasses
from typing import Any

import numpy as np
import torch

from bertds.config.schema import ModelConfig
from bertds.data.packing import MaskedSequences, PackedBatch, pack
from bertds.model.batch import DeviceBatch, to_device
from bertds.model.mlm import UNUSED_BIAS, MaskedLanguageModel

torch.set_num_threads(1)  # the tensors are tiny
VOCAB, PAD, MASK, ROW = 50, 0, 4, 32
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": ROW,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.3,  # large enough for the non-linearities to matter
}


def make_model(seed: int = 0, **fields: Any) -> MaskedLanguageModel:
    """Build a small model in float64; norms and biases are random too."""
    torch.manual_seed(seed)
    config = ModelConfig.model_validate(SMALL | fields)
    model = MaskedLanguageModel(config, VOCAB, PAD).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm.weight" in name))
        model.head.decoder.bias[VOCAB:] = UNUSED_BIAS
    return model


def make_sequences(lengths: list[int], seed: int = 0) -> list[MaskedSequences]:
    """Draw random sequences of these lengths, with some tokens of each masked."""
    generator = np.random.default_rng(seed)
    sequences = []
    for length in lengths:
        tokens = generator.integers(5, VOCAB, length)
        masked = np.sort(generator.choice(length, 1 + length // 5, replace=False))
        sequences.append(sequence_of(tokens, masked))
    return sequences


def sequence_of(tokens: np.ndarray, masked: np.ndarray) -> MaskedSequences:
    """Build one sequence with `[MASK]` at the masked positions."""
    inputs = tokens.copy()
    inputs[masked] = MASK
    lengths = np.array([tokens.size])
    return MaskedSequences.masked_at(masked, tokens=tokens, inputs=inputs, lengths=lengths)


_EMPTY = np.empty(0, np.int64)
NO_SEQUENCES = MaskedSequences.masked_at(_EMPTY, tokens=_EMPTY, inputs=_EMPTY, lengths=_EMPTY)


@torch.no_grad()
def predict_some(
    model: MaskedLanguageModel, sequences: list[MaskedSequences]
) -> list[MaskedSequences]:
    """Set every second label to the model's prediction, so that some are correct."""
    changed = []
    for sequence, padded in zip(sequences, as_padded(sequences), strict=True):
        tokens = sequence.tokens.copy()
        masked = np.flatnonzero(sequence.is_masked)
        tokens[masked[::2]] = model.logits(padded).argmax(-1)[::2].numpy()
        changed.append(dataclasses.replace(sequence, tokens=tokens))
    return changed


def as_rows(sequences: list[MaskedSequences]) -> DeviceBatch:
    """Pack several sequences into a row."""
    return tensors_of(pack(MaskedSequences.concatenate(sequences), row_length=ROW, pad_id=PAD))


def as_padded(sequences: list[MaskedSequences]) -> list[DeviceBatch]:
    """Pad each sequence to a row, one row per batch."""
    return [tensors_of(pack(sequence, row_length=ROW, pad_id=PAD)) for sequence in sequences]


def as_one_row(sequences: list[MaskedSequences]) -> DeviceBatch:
    """Pack in the varlen layout, and declare all tokens to be one row: CPU has no varlen kernel."""
    flat = pack(MaskedSequences.concatenate(sequences), row_length=0, pad_id=PAD, multiple=16)
    return tensors_of(flat, rows=((1, flat.inputs.size),))


def as_varlen(sequences: list[MaskedSequences]) -> DeviceBatch:
    """Pack in the varlen layout, whose kernel `varlen_kernels.py` registers for the CPU."""
    whole = MaskedSequences.concatenate(sequences)
    return tensors_of(pack(whole, row_length=0, pad_id=PAD, multiple=16))


def tensors_of(batch: PackedBatch, rows: tuple[tuple[int, int], ...] = ()) -> DeviceBatch:
    """Convert a packed batch to tensors; `rows` overrides its rows."""
    device_batch = to_device(torch.device("cpu"), batch)
    return dataclasses.replace(device_batch, rows=rows or batch.rows)


def hidden_of(model: MaskedLanguageModel, batch: DeviceBatch) -> torch.Tensor:
    """Compute the (T, D) hidden states of all tokens, not only of the masked ones."""
    all_tokens = torch.arange(batch.inputs_T.numel())
    return model.hidden_states(dataclasses.replace(batch, masked_M=all_tokens))


def loss_and_gradients(
    model: MaskedLanguageModel, batches: list[DeviceBatch]
) -> dict[str, torch.Tensor]:
    """Compute loss, correct tokens and all gradients, summed over batches."""
    model.zero_grad()
    sums = {"loss": torch.zeros(()), "correct": torch.zeros(())}
    for batch in batches:
        loss, is_correct = model(batch)
        loss.backward()
        sums = {"loss": sums["loss"] + loss.detach(), "correct": sums["correct"] + is_correct.sum()}
    named = dict(model.named_parameters())
    return sums | {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


def assert_equal(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
) -> None:
    """Compare tensors; the tolerance is relative to the largest entry of each."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = tensor.abs().max()
        assert scale > 0, name
        assert (tensor - found[name]).abs().max() <= tolerance * scale, name
