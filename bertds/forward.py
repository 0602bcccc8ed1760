"""Packs through a model: to the device, and into the sums that every figure is a ratio of.

One way for the training step, for validation and for what is done with a finished run, so that all
of them add up the same numbers in the same order.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from bertds.data.packing import Pack
from bertds.model.mlm import PackTensors

Model = Callable[[PackTensors], tuple[Tensor, Tensor]]

STOPS, SKIPS = 5, 6  # places of `bertds.sums.Sums.stops` and `skips` in (7,) sums


def no_sums(device: torch.device) -> Tensor:
    """(7,) sums of no pack, in the order of `bertds.sums.Sums`."""
    return torch.zeros(7, dtype=torch.float64, device=device)


def tensors_on(device: torch.device, pack: Pack) -> PackTensors:
    """A pack on its way to the device; nothing waits for it."""

    def move(array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return PackTensors(
        inputs_T=move(pack.inputs),
        positions_T=move(pack.positions),
        segments_T=move(pack.segments),
        cumulative=move(pack.cumulative),
        masked_M=move(pack.masked),
        labels_M=move(pack.labels),
        rows=pack.rows,
        max_length=pack.max_length,
    )


def sums_of(pack: Pack, loss: Tensor, correct: Tensor) -> Tensor:
    """(7,) sums of a pack in 64 bits, from what the model says of it."""
    counts = [pack.masked.size, pack.num_tokens, pack.inputs.size, 0, 0]
    known = torch.tensor(counts, dtype=torch.float64).to(loss.device, non_blocking=True)
    return torch.cat([torch.stack([loss.double(), correct.double()]), known])


@torch.no_grad()
def forward_sums(model: Model, packs: Iterable[Pack], device: torch.device) -> Tensor:
    """(7,) sums over packs, which are added one after the other."""
    values = no_sums(device)
    for pack in packs:
        loss, correct = model(tensors_on(device, pack))
        values += sums_of(pack, loss, correct)
    return values
