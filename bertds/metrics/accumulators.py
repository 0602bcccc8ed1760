"""The sums behind every metric: their layout, accumulation and copy to the host.

Training, validation and evaluation add up the same numbers in the same order. On the device the
sums are one float64 vector, so they take one all-reduce and one copy. `MetricSums` owns the layout
of this vector: element i is its field i.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from bertds.data.packing import PackedBatch
from bertds.model.batch import DeviceBatch, to_device

Model = Callable[[DeviceBatch], tuple[Tensor, Tensor]]
"""Returns the summed loss (nats) and the number of correct predictions of a batch."""


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
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

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


NUM_SUMS = len(fields(MetricSums))
STOPS, SKIPS = (MetricSums.__slots__.index(name) for name in ("stops", "skips"))


def zero_sums(device: torch.device) -> Tensor:
    """(NUM_SUMS,) float64 zeros."""
    return torch.zeros(NUM_SUMS, dtype=torch.float64, device=device)


def sums_of_pack(pack: PackedBatch, loss: Tensor, correct: Tensor) -> Tensor:
    """(NUM_SUMS,) float64 sums of a packed batch, from the model's two results."""
    counts = [pack.masked.size, pack.num_maskable, pack.num_tokens, pack.inputs.size, 0, 0]
    counts_on_device = torch.tensor(counts, dtype=torch.float64).to(loss.device, non_blocking=True)
    return torch.cat([torch.stack([loss.double(), correct.double()]), counts_on_device])


@torch.no_grad()
def evaluate_packs(model: Model, packs: Iterable[PackedBatch], device: torch.device) -> Tensor:
    """(NUM_SUMS,) float64 sums over packed batches, added in their order."""
    values = zero_sums(device)
    for pack in packs:
        loss, correct = model(to_device(device, pack))
        values += sums_of_pack(pack, loss, correct)
    return values


class AsyncSums:
    """A non-blocking copy of sums from the device to the host."""

    def __init__(self, values: Tensor) -> None:
        """Start the copy of (NUM_SUMS,) sums without waiting for it."""
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = values

    def sums(self) -> MetricSums:
        """Wait for the copy and return the sums."""
        if self._event is not None:
            self._event.synchronize()
        return MetricSums(*self._host.tolist())


def validation_metrics(sums: Mapping[str, MetricSums]) -> dict[str, float]:
    """The metrics of a validation by tag, as they are logged.

    Args:
        sums: The sums of each validation set, by name.

    Returns:
        Loss and accuracy over all sets and, if there are several, of each set.
    """
    total = MetricSums()
    for set_sums in sums.values():
        total.add(set_sums)
    metrics = {"loss/valid": total.mean_loss, "acc/valid": total.accuracy}
    if len(sums) > 1:
        for name, set_sums in sums.items():
            metrics[f"loss/valid/{name}"] = set_sums.mean_loss
            metrics[f"acc/valid/{name}"] = set_sums.accuracy
    return metrics
