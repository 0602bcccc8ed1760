"""The sums behind every metric: their layout, accumulation and copy to the host.

Training, validation and evaluation add up the same numbers in the same order. On the device the
sums are one float64 vector, so they take one all-reduce and one copy. `MetricSums`, or
`ValidationSums`, owns the layout of this vector: element i is its field i.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from bertds.data.packing import PackedBatch
from bertds.metrics.places import KINDS, kinds_of
from bertds.model.batch import DeviceBatch, to_device

Model = Callable[[DeviceBatch], tuple[Tensor, Tensor]]
"""Returns the summed loss of a batch in nats, and (M,) whether each prediction is correct."""


@dataclass(slots=True)
class MetricSums:
    """Sums over all ranks, for a step or a validation set."""

    loss: float = 0.0
    """Cross-entropy of the masked tokens, in nats."""
    correct: float = 0.0
    """Masked tokens predicted correctly."""
    masked: float = 0.0
    """Masked tokens."""
    maskable: float = 0.0
    """Tokens that the masked ones were chosen from."""
    tokens: float = 0.0
    """Real tokens."""
    slots: float = 0.0
    """Tokens computed, including padding."""
    stops: float = 0.0
    """Ranks that request a stop."""
    skips: float = 0.0
    """Ranks that skipped the step: none or all."""

    def add(self, other: "MetricSums") -> None:
        """Add other sums field by field."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def mean_loss(self) -> float:
        """Nats per masked token."""
        return self.loss / self.masked

    @property
    def accuracy(self) -> float:
        """Fraction of masked tokens predicted correctly."""
        return self.correct / self.masked

    @property
    def masked_ratio(self) -> float:
        """Fraction of the maskable tokens that are masked."""
        return self.masked / max(1.0, self.maskable)


@dataclass(slots=True)
class ValidationSums(MetricSums):
    """Sums over a validation set, with the masked tokens apart by what their places show."""

    masked_mask: float = 0.0
    masked_random: float = 0.0
    masked_kept: float = 0.0
    correct_mask: float = 0.0
    correct_random: float = 0.0
    correct_kept: float = 0.0

    def accuracy_by_kind(self) -> dict[str, float]:
        """Fraction of the masked tokens predicted correctly, by the kind of their places."""
        counts = {kind: getattr(self, f"masked_{kind}") for kind in KINDS}
        return {
            kind: getattr(self, f"correct_{kind}") / count
            for kind, count in counts.items()
            if count
        }


NUM_SUMS = len(fields(MetricSums))
NUM_VALIDATION_SUMS = len(fields(ValidationSums))
STOPS, SKIPS = (MetricSums.__slots__.index(name) for name in ("stops", "skips"))


def zero_sums(device: torch.device, length: int = NUM_SUMS) -> Tensor:
    """(NUM_SUMS,) float64 zeros, or another length."""
    return torch.zeros(length, dtype=torch.float64, device=device)


def sums_of_pack(pack: PackedBatch, loss: Tensor, is_correct: Tensor) -> Tensor:
    """(NUM_SUMS,) float64 sums of a packed batch, from the model's two results."""
    counts = [pack.masked.size, pack.num_maskable, pack.num_tokens, pack.inputs.size, 0, 0]
    counts_on_device = torch.tensor(counts, dtype=torch.float64).to(loss.device, non_blocking=True)
    return torch.cat([torch.stack([loss.double(), is_correct.sum().double()]), counts_on_device])


@torch.no_grad()
def evaluate_packs(
    model: Model, packs: Iterable[PackedBatch], device: torch.device, mask_id: int
) -> Tensor:
    """(NUM_VALIDATION_SUMS,) float64 sums over packed batches, added in their order."""
    values = zero_sums(device, NUM_VALIDATION_SUMS)
    for pack in packs:
        loss, is_correct = model(to_device(device, pack))
        is_kind = kinds_of(pack, mask_id) == np.arange(len(KINDS))[:, None]
        is_kind_on_device = torch.from_numpy(is_kind).to(device, non_blocking=True)
        correct = (is_kind_on_device & is_correct).sum(1)
        by_kind = torch.cat([is_kind_on_device.sum(1), correct]).double()
        values += torch.cat([sums_of_pack(pack, loss, is_correct), by_kind])
    return values


class AsyncSums:
    """A non-blocking copy of sums from the device to the host."""

    def __init__(self, values: Tensor) -> None:
        """Start the copy of sums without waiting for it."""
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = values

    def sums(self) -> MetricSums:
        """Wait for the copy and return the sums of a step."""
        return MetricSums(*self._wait())

    def validation_sums(self) -> ValidationSums:
        """Wait for the copy and return the sums of a validation set."""
        return ValidationSums(*self._wait())

    def _wait(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        values: list[float] = self._host.tolist()
        return values


def validation_metrics(
    sums: Mapping[str, ValidationSums], characters_per_token: Mapping[str, float]
) -> dict[str, float]:
    """The metrics of a validation by tag, as they are logged.

    Args:
        sums: The sums of each validation set, by name.
        characters_per_token: Of each validation set.

    Returns:
        Loss and accuracy over all sets and, if there are several, of each set. The accuracy over
        all sets is also given by what the masked places show. Bits per character compare arms with
        different vocabularies: they estimate the bits of a whole text from its masked tokens.
    """
    total = ValidationSums()
    for set_sums in sums.values():
        total.add(set_sums)
    metrics = {"loss/valid": total.mean_loss, "acc/valid": total.accuracy}
    for kind, accuracy in total.accuracy_by_kind().items():
        metrics[f"acc_{kind}/valid"] = accuracy
    if len(sums) > 1:
        for name, set_sums in sums.items():
            metrics[f"loss/valid/{name}"] = set_sums.mean_loss
            metrics[f"acc/valid/{name}"] = set_sums.accuracy
    return metrics | _bits_per_character(sums, characters_per_token)


def _bits_per_character(
    sums: Mapping[str, ValidationSums], characters_per_token: Mapping[str, float]
) -> dict[str, float]:
    """Bits of all maskable tokens, if the others are as hard as the masked ones, over characters."""
    if not all(characters_per_token.values()):  # shards of token ids, whose text is not known
        return {}
    bits = {name: each.mean_loss / math.log(2) * each.maskable for name, each in sums.items()}
    characters = {name: each.tokens * characters_per_token[name] for name, each in sums.items()}
    metrics = {"bits_per_character/valid": sum(bits.values()) / sum(characters.values())}
    if len(sums) > 1:
        for name in sums:
            metrics[f"bits_per_character/valid/{name}"] = bits[name] / characters[name]
    return metrics
