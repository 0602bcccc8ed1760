"""The unigram baseline: what a model without context reaches on the masks of validation sets."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bertds.data.masked_dataset import MaskedDataset
from bertds.data.masking import Masker
from bertds.data.packing import PackedBatch, RankBatchSpec
from bertds.data.validation import valid_packs


def unigram_baseline(
    sets: Mapping[str, MaskedDataset],
    vocab_size: int,
    watched: Callable[[Iterator[PackedBatch]], Iterator[PackedBatch]] = iter,
) -> dict[str, Any]:
    """The expected accuracy and loss of the best prediction that sees no other token.

    It knows how often each token is masked, and which token is in the place itself. That is mostly
    the mask token. Where it is a frequent other token, it was more likely kept than drawn at random.

    Args:
        sets: Validation sets by name; all share one masking rule and one vocabulary.
        vocab_size: V.
        watched: Wraps the batches that are read, for heartbeats.

    Returns:
        `accuracy` and `loss` (nats) over all sets and, if there are several, of each set by name
        under `sets`.
    """
    counts = {name: _masked_tokens(dataset, vocab_size, watched) for name, dataset in sets.items()}
    masker = next(iter(sets.values())).masker
    baseline: dict[str, Any] = _baseline_of(np.sum([*counts.values()], axis=0), masker)
    if len(counts) > 1:
        baseline["sets"] = {name: _baseline_of(count, masker) for name, count in counts.items()}
    return baseline


def _masked_tokens(
    dataset: MaskedDataset,
    vocab_size: int,
    watched: Callable[[Iterator[PackedBatch]], Iterator[PackedBatch]],
) -> npt.NDArray[np.int64]:
    """(V,) how often each id is masked."""
    spec = RankBatchSpec(rank=0, world_size=1, micro_batch_size=1024, row_length=0, pad_id=0)
    counts = np.zeros(vocab_size, dtype=np.int64)
    for pack in watched(valid_packs(dataset, spec)):
        counts += np.bincount(pack.labels, minlength=vocab_size)
    return counts


def _baseline_of(counts: npt.NDArray[np.int64], masker: Masker) -> dict[str, float]:
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
