"""A packed batch as tensors on the device. Shape letters: see `embeddings.py`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertds.data.packing import PackedBatch


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A `PackedBatch` on the device: T tokens including padding, M of them to be predicted."""

    inputs_T: Tensor
    """(T,) int64 ids with masks applied."""
    positions_T: Tensor
    """(T,) int64 position of each token in its sequence."""
    segments_T: Tensor
    """(T,) int32 index of the sequence, or of the padding, that a token belongs to."""
    cumulative: Tensor
    """(segments + 1,) int32 start of each segment, and T."""
    masked_M: Tensor
    """(M,) int64 flat positions of the tokens to predict."""
    labels_M: Tensor
    """(M,) int64 original ids at these positions."""
    rows: tuple[tuple[int, int], ...]
    """(number of rows, their length), longest first; empty for the varlen kernel's layout."""
    max_length: int
    """Tokens of the longest segment."""


def to_device(device: torch.device, pack: PackedBatch) -> DeviceBatch:
    """Start the copy of a packed batch to the device, without waiting for it."""

    def move(array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return DeviceBatch(
        inputs_T=move(pack.inputs),
        positions_T=move(pack.positions),
        segments_T=move(pack.segments),
        cumulative=move(pack.cumulative),
        masked_M=move(pack.masked),
        labels_M=move(pack.labels),
        rows=pack.rows,
        max_length=pack.max_length,
    )
