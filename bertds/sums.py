"""The sums that every figure is a ratio of, and their way from the device to the host."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Sums:
    """All-reduced sums of a step or of a validation set; they add up."""

    loss: float = 0.0
    """Cross-entropy of the masked tokens, in nats."""
    correct: float = 0.0
    """Masked tokens whose most likely id is right."""
    masked: float = 0.0
    """Masked tokens."""
    tokens: float = 0.0
    """Real tokens."""
    slots: float = 0.0
    """Tokens computed, filler included."""
    stops: float = 0.0
    """Processes that ask to stop."""
    skips: float = 0.0
    """Processes that did not apply the step: none or all."""

    def add(self, other: "Sums") -> None:
        """Add figures of other tokens."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def mean_loss(self) -> float:
        """Nats a masked token."""
        return self.loss / self.masked

    @property
    def accuracy(self) -> float:
        """Share of masked tokens that are right."""
        return self.correct / self.masked


class Reading:
    """Sums on their way from the device to the host."""

    def __init__(self, values: Tensor) -> None:
        """Start the copy of (7,) sums, without waiting."""
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = values

    def sums(self) -> Sums:
        """The sums; waits for the copy only."""
        if self._event is not None:
            self._event.synchronize()
        return Sums(*self._host.tolist())
