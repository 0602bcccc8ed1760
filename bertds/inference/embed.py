"""Computes the last hidden states of texts."""

from collections.abc import Sequence

import numpy as np
import torch

from bertds.data.packing import MaskedSequences, pack
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.trained_run import TrainedRun


@torch.no_grad()
def embed(
    trained: TrainedRun, model: MaskedLanguageModel, texts: Sequence[str]
) -> list[torch.Tensor]:
    """Compute the last hidden states of each text in fp32 on the CPU.

    Args:
        trained: The run.
        model: Its model, `trained.model()`.
        texts: One sequence each.

    Returns:
        For each text (L, D), one row for each of its L tokens.

    Raises:
        ConfigError: A text is too long for the model.
    """
    ids = [np.array(trained.encode(text), dtype=np.int64) for text in texts]
    lengths = np.array([row.size for row in ids])
    if not lengths.any():
        return [torch.zeros(0, model.config.hidden_size) for _ in texts]
    tokens = np.concatenate(ids)
    sequences = MaskedSequences.masked_at(
        np.arange(tokens.size), tokens=tokens, inputs=tokens, lengths=lengths
    )
    pad_id = trained.tokenizer.special_ids["pad"]
    packed = pack(sequences, row_length=int(lengths.max()), pad_id=pad_id)
    hidden = model.hidden_states(to_device(torch.device("cpu"), packed))
    return list(torch.split(hidden, lengths.tolist()))
