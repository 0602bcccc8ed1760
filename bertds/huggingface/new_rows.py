"""Weights of a model whose vocabulary was extended."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bertds.model.mlm import UNUSED_BIAS

VOCABULARY_TABLES = ("encoder.embeddings.tokens.weight", "head.decoder.weight", "head.decoder.bias")


def with_new_rows(
    weights: Mapping[str, Tensor], pieces: Sequence[Sequence[int]], num_ids: int, num_rows: int
) -> dict[str, Tensor]:
    """Give each new token the mean of the rows of its old pieces.

    Source: Gee et al., "Fast Vocabulary Transfer for Language Model Compression", 2022, section 3.

    Args:
        weights: By our names, with the rows of the old vocabulary.
        pieces: The old ids of each new token; the new ids follow the old ones.
        num_ids: Number of old ids; further rows of the old model are padding, and are dropped.
        num_rows: Rows of the new model. Those without an id are 0 and are never predicted.
    """
    extended = dict(weights)
    for name in VOCABULARY_TABLES:
        if name not in weights:
            continue
        old = weights[name][:num_ids]
        new = torch.stack([old[list(ids)].mean(0) for ids in pieces])
        unused = old.new_zeros(num_rows - num_ids - len(pieces), *old.shape[1:])
        if name.endswith("bias"):
            unused.fill_(UNUSED_BIAS)
        extended[name] = torch.cat([old, new, unused])
    return extended
