"""The unigram baseline: metrics of a model without context, on the masks of validation sets."""

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
    with_heartbeats: Callable[[Iterator[PackedBatch]], Iterator[PackedBatch]] = iter,
) -> dict[str, Any]:
    """The expected accuracy and loss of the best prediction that sees no other token.

    The prediction knows how often each token is masked, and the input id at the masked position.
    That id is mostly the mask token. If it is another frequent token, that token was more likely
    kept than drawn at random.

    Args:
        sets: Validation sets by name; all share one masking rule and one vocabulary.
        vocab_size: V.
        with_heartbeats: Wraps the batches that are read.

    Returns:
        `accuracy` and `loss` (nats) over all sets and, if there are several, of each set by name
        under `sets`.
    """
    spec = RankBatchSpec(rank=0, world_size=1, micro_batch_size=1024, row_length=0, pad_id=0)
    counts = {}
    for name, dataset in sets.items():
        counts[name] = np.zeros(vocab_size, dtype=np.int64)
        for pack in with_heartbeats(valid_packs(dataset, spec)):
            counts[name] += np.bincount(pack.labels, minlength=vocab_size)
    masker = next(iter(sets.values())).masker
    baseline: dict[str, Any] = _baseline_of(np.sum([*counts.values()], axis=0), masker)
    if len(counts) > 1:
        baseline["sets"] = {name: _baseline_of(count, masker) for name, count in counts.items()}
    return baseline


def _baseline_of(counts: npt.NDArray[np.int64], masker: Masker) -> dict[str, float]:
    """Accuracy and loss of the best prediction of a masked token y, given the input id x.

    All arrays are (V,), over x. P(y | x) is p_kept[x] + p_random[x] · frequency[x] if y = x, and
    p_random[x] · frequency[y] otherwise.

    Args:
        counts: How often each id is masked.
        masker: The masking rule and the ids that random tokens are drawn from.
    """
    rule = masker.rule
    frequency = counts / counts.sum()
    entropy = -_x_log_x(frequency).sum()
    kept = (1 - rule.mask_share - rule.random_share) * frequency  # P(x, kept)
    random = np.zeros_like(frequency)  # P(x, drawn at random)
    random[masker.drawable] = rule.random_share / masker.drawable.size
    either = kept + random
    p_kept = np.divide(kept, either, out=np.zeros_like(either), where=either > 0)
    p_random = 1 - p_kept
    p_same = p_kept + p_random * frequency
    loss = p_random * (entropy + _x_log_x(frequency)) - _x_log_x(p_random) * (1 - frequency)
    loss -= _x_log_x(p_same)
    accuracy = np.maximum(p_same, p_random * frequency.max())
    return {
        "accuracy": float(rule.mask_share * frequency.max() + (either * accuracy).sum()),
        "loss": float(rule.mask_share * entropy + (either * loss).sum()),
    }


def _x_log_x(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return x * np.log(x, out=np.zeros_like(x), where=x > 0)
