"""Baselines of a run: what can be predicted without reading a sentence.

The *unigram* baseline knows how frequent each token is. The *neighbour* baseline also knows one
token beside the masked one: the one before, or the one after, whichever predicts better. Both know
that the token that is shown at a masked position may be the right one, since masking keeps some. An
encoder that is no better than the first does not use context. One that is no better than the second
uses little of it.

All frequencies are those of the training sets (`ngrams.py`), and the masks are those of validation,
so the losses can be compared with `loss/valid`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertds.data.dataset import DatasetSubset
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.masking import Masker
from bertds.data.packing import PackedBatch, RankBatchSpec
from bertds.data.validation import valid_packs
from bertds.metrics.ngrams import Bigram, Floats, Int64s, NGrams, Unigram, neighbours
from bertds.metrics.places import KINDS, kinds_of

WithHeartbeats = Callable[[Iterable[Any]], Iterator[Any]]
_UNIGRAM, _BEFORE, _AFTER = range(3)


def compute_baselines(
    valid: Mapping[str, MaskedDataset],
    train: Sequence[DatasetSubset],
    vocab_size: int,
    with_heartbeats: WithHeartbeats = iter,
) -> dict[str, Any]:
    """The metrics of both baselines on the validation masks.

    Args:
        valid: Validation sets by name; all share one masking rule and one vocabulary.
        train: Training sets, whose frequencies are used.
        vocab_size: V.
        with_heartbeats: Wraps what is read.

    Returns:
        The metrics of the unigram baseline, those of the neighbour baseline under `neighbour`, and,
        if there are several validation sets, the same of each under `sets`. Metrics are `loss`
        (nats), `accuracy`, and `accuracy_mask`, `accuracy_random` and `accuracy_kept` over the
        positions that show [MASK], another token or the right one.
    """
    masker = next(iter(valid.values())).masker
    ngrams = NGrams.count(train, vocab_size, masker.drawable, with_heartbeats)
    scores = {}
    total = _Scores()
    for name, dataset in valid.items():
        scores[name] = _score(dataset, ngrams, masker, with_heartbeats)
        total.add(scores[name])
    content = total.metrics()
    if len(scores) > 1:
        content["sets"] = {name: each.metrics() for name, each in scores.items()}
    return content


def baselines_by_name(content: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics of each baseline in the result of `compute_baselines`, or in one of its `sets`.

    Runs of version 0.1.0 have only the unigram baseline.
    """
    by_name = {"unigram": content, "neighbour": content.get("neighbour", {})}
    return {
        name: {key: value for key, value in metrics.items() if isinstance(value, float)}
        for name, metrics in by_name.items()
        if {"loss", "accuracy"} <= metrics.keys()
    }


@dataclass(slots=True)
class _Scores:
    """Sums over masked positions."""

    positions: Floats = field(default_factory=lambda: np.zeros(len(KINDS)))
    """Number of positions of each kind."""
    losses: Floats = field(default_factory=lambda: np.zeros(3))
    """Nats of each model: unigram, token before, token after."""
    correct: Floats = field(default_factory=lambda: np.zeros((3, len(KINDS))))
    """Correct predictions of each model, by kind of position."""

    def add(self, other: "_Scores") -> None:
        self.positions += other.positions
        self.losses += other.losses
        self.correct += other.correct

    def metrics(self) -> dict[str, Any]:
        neighbour = min((_BEFORE, _AFTER), key=lambda model: self.losses[model])
        return {**self._metrics(_UNIGRAM), "neighbour": self._metrics(neighbour)}

    def _metrics(self, model: int) -> dict[str, float]:
        metrics = {
            "accuracy": float(self.correct[model].sum() / self.positions.sum()),
            "loss": float(self.losses[model] / self.positions.sum()),
        }
        for kind, correct, count in zip(KINDS, self.correct[model], self.positions, strict=True):
            if count:
                metrics[f"accuracy_{kind}"] = float(correct / count)
        return metrics


def _score(
    dataset: MaskedDataset, ngrams: NGrams, masker: Masker, with_heartbeats: WithHeartbeats
) -> _Scores:
    """Score the three models on the masked positions of a validation set."""
    spec = RankBatchSpec(rank=0, world_size=1, micro_batch_size=1024, row_length=0, pad_id=0)
    scores = _Scores()
    for pack in with_heartbeats(valid_packs(dataset, spec)):
        shown, labels = pack.inputs[pack.masked], pack.labels
        kinds = kinds_of(pack, masker.mask_id)
        scores.positions += np.bincount(kinds, minlength=len(KINDS))
        before, after = _beside_masked(pack, ngrams.edge)
        models: list[tuple[Unigram | Bigram, Int64s]] = [
            (ngrams.unigram, before),
            (ngrams.before, before),
            (ngrams.after, after),
        ]
        for number, (model, context) in enumerate(models):
            probability, best = _predict(model, context, shown, labels, masker)
            scores.losses[number] -= np.log(probability).sum()
            scores.correct[number] += np.bincount(kinds, best == labels, minlength=len(KINDS))
    return scores


def _beside_masked(pack: PackedBatch, edge: int) -> tuple[Int64s, Int64s]:
    """The ids that are shown before and after each masked position."""
    before, after = neighbours(pack.inputs, np.diff(pack.cumulative), edge)
    return before[pack.masked], after[pack.masked]


def _predict(
    model: Unigram | Bigram, context: Int64s, shown: Int64s, labels: Int64s, masker: Masker
) -> tuple[Floats, Int64s]:
    """Predict the token of masked positions, given a neighbour and the id that is shown.

    With q the model's distribution, an id x that is not [MASK] was kept with the probability
    k q(x) / (k q(x) + r / D), where k and r are the shares of kept and random ids and D the number
    of ids that are drawn from. If it was not kept, the token is distributed as q.

    Returns:
        (M,) probability of the label, and (M,) the most likely id.
    """
    rule = masker.rule
    q_label, q_shown = model.probability(context, labels), model.probability(context, shown)
    kept = (1 - rule.mask_share - rule.random_share) * q_shown
    random = rule.random_share / masker.drawable.size
    is_masked = shown == masker.mask_id
    p_kept = np.divide(kept, kept + random, out=np.zeros_like(kept), where=kept + random > 0)
    p_kept[is_masked] = 0
    best = model.best(context)
    p_best = (1 - p_kept) * model.probability(context, best)
    keeps = ~is_masked & (p_kept + (1 - p_kept) * q_shown >= p_best)
    probability = p_kept * (shown == labels) + (1 - p_kept) * q_label
    return probability, np.where(keeps, shown, best)
