"""The exponential moving average (EMA) of the fp32 weights, sharded as they are.

Each rank averages the fp32 tensors that its optimizer steps: its shard at ZeRO 1 to 3, everything at
stage 0. Nothing is communicated. The average is fp32 also where the optimizer's weights have 16 bits.

Each number is computed by three operations that round once: a difference, a product and a sum. A fused
operation would round differently at the end of a tensor, and so depend on how it is divided.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bertds.engine.zero_layout import ShardedParameter, parameter_shards

_CHUNK = 1 << 22  # numbers that are updated at a time, which bounds the temporary memory


class WeightAverage:
    """The average of an engine's weights: average += (1 - decay) * (weights - average)."""

    def __init__(self, ds_engine: Any, decay: float) -> None:
        """Start the average from the present weights."""
        masters = dict.fromkeys(shard.master for shard in parameter_shards(ds_engine))
        self._averages: dict[Tensor, Tensor] = {
            master: torch.empty_like(master, dtype=torch.float32, requires_grad=False)
            for master in masters
        }
        self._rate = 1 - decay
        self.restart()

    def restart(self) -> None:
        """Set the average to the present weights."""
        for master, average in self._averages.items():
            average.copy_(master.detach())

    def of(self, shard: ShardedParameter) -> Tensor:
        """The average of a shard, as a flat view."""
        return shard.of(self._averages[shard.master])

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights, after a step that was applied."""
        for averages, weights in self._chunks():
            differences = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(differences, self._rate)
            torch._foreach_add_(averages, differences)

    def _chunks(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Flat pieces of the averages and the weights, at most `_CHUNK` numbers at a time."""
        averages: list[Tensor] = []
        weights: list[Tensor] = []
        size = 0
        for master, average in self._averages.items():
            pieces = torch.split(average.view(-1), _CHUNK)
            for piece, weight in zip(
                pieces, torch.split(master.detach().view(-1), _CHUNK), strict=True
            ):
                if averages and size + piece.numel() > _CHUNK:
                    yield averages, weights
                    averages, weights, size = [], [], 0
                averages.append(piece)
                weights.append(weight.float())
                size += piece.numel()
        yield averages, weights
