"""Validation sets: fixed masks, every sequence once, figures weighted by masked tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bertds.data.masked_dataset import MaskedDataset
from bertds.data.masking import Masker
from bertds.data.packing import RankBatchSpec
from bertds.data.validation import valid_packs


def unigram_baseline(sets: Mapping[str, MaskedDataset], vocab_size: int) -> dict[str, Any]:
    """What can be reached on the masks of these sets without any context.

    The best guess that sees no token around knows how often each is masked, and what stands in the
    place itself: mostly the mask token, but some tokens are left as they are, and where one stands
    that is frequent it is likelier left than drawn at random.

    Returns:
        `accuracy` and `loss` (nats) that are expected of it: of all sets together, and under `sets`
        of each by its name if there are several.
    """
    counts = {name: _masked_tokens(one, vocab_size) for name, one in sets.items()}
    masker = next(iter(sets.values())).masker  # of all: a case has one rule and one vocabulary
    figures: dict[str, Any] = _guess_of(np.sum([*counts.values()], axis=0), masker)
    if len(counts) > 1:
        figures["sets"] = {name: _guess_of(one, masker) for name, one in counts.items()}
    return figures


def _masked_tokens(one: MaskedDataset, vocab_size: int) -> npt.NDArray[np.int64]:
    """(V,) how often each id is masked."""
    alone = RankBatchSpec(rank=0, world_size=1, micro_batch_size=1024, row_length=0, pad_id=0)
    counts = np.zeros(vocab_size, dtype=np.int64)
    for pack in valid_packs(one, alone):
        counts += np.bincount(pack.labels, minlength=vocab_size)
    return counts


def _guess_of(counts: npt.NDArray[np.int64], masker: Masker) -> dict[str, float]:
    """Of a masked token with id y, given the id x in its place; all arrays are (V,) over x."""
    rule = masker.rule
    share = counts / counts.sum()
    entropy = -_x_log_x(share).sum()
    left = (1 - rule.mask_share - rule.random_share) * share  # y = x stands there
    drawn = np.zeros_like(share)
    drawn[masker.drawable] = rule.random_share / masker.drawable.size
    seen = left + drawn
    is_left = np.divide(left, seen, out=np.zeros_like(seen), where=seen > 0)
    is_drawn = 1 - is_left
    # P(y | x) is is_left + is_drawn * share[x] for y = x, else is_drawn * share[y].
    itself = is_left + is_drawn * share
    loss = is_drawn * (entropy + _x_log_x(share)) - _x_log_x(is_drawn) * (1 - share)
    loss -= _x_log_x(itself)
    most = np.maximum(itself, is_drawn * share.max())
    return {
        "accuracy": float(rule.mask_share * share.max() + (seen * most).sum()),
        "loss": float(rule.mask_share * entropy + (seen * loss).sum()),
    }


def _x_log_x(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return x * np.log(x, out=np.zeros_like(x), where=x > 0)
