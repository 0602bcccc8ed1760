"""Where a live DeepSpeed engine keeps the numbers that training needs.

Fp32 master weights and the optimizer's moments lie in a different place for each ZeRO stage and
precision: in the parameters themselves, in one flat tensor a parameter group, in this process's
piece of such a tensor, or in a piece of each parameter. Here all are described alike, as *slots*:
elements [start, start + length) of a parameter lie in tensor `master` from `offset` on, and what
the optimizer keeps of `master` has the same layout.

    stage 0   fp32: the parameters      bf16, fp16: an fp32 copy of each (FusedAdam: of each group)
    stage 1-2 the group laid end to end, cut into equal pieces, the last one padded
    stage 3   each parameter cut into equal pieces, those of a group laid end to end

The attributes are those of DeepSpeed 0.19.8.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NOT_ELEMENTWISE = ("Adafactor", "LBFGS", "SparseAdam")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardedParameter:
    """A contiguous piece of one parameter in this process; it may be empty."""

    name: str
    parameter: Any
    shape: tuple[int, ...]
    """Of the whole parameter."""
    group: int
    """The optimizer's parameter group."""
    start: int
    """First element of the piece in the flattened parameter."""
    length: int
    master: Tensor
    """The fp32 tensor that the optimizer steps; the key of its state."""
    offset: int
    """First element of the piece in the flattened `master`."""

    def of(self, tensor: Tensor) -> Tensor:
        """The piece, as a flat view into `master` or a moment of the same layout."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.length]


def check_supported(ds_engine: Any) -> None:
    """Refuse at the start of a run what could not be saved hours later.

    Raises:
        ValueError: Optimizer states that cannot be reached or divided anew, or a parameter that is
            not trained.
    """
    optimizer, name = ds_engine.optimizer, type(inner_optimizer(ds_engine)).__name__
    if name == "MuonWithAuxAdam" and hasattr(optimizer, "single_partition_of_fp32_groups"):
        raise ValueError(
            "optimizer.type Muon keeps its momentum at ZeRO stages 1 and 2 in a layout that no "
            "checkpoint can hold: set zero_optimization.stage to 0, or to 3 with reduce_scatter "
            "false"
        )
    if name in _NOT_ELEMENTWISE:
        raise ValueError(
            f"optimizer.type {name} does not keep one number for each weight, which is all that a "
            "checkpoint can hold: choose another, such as AdamW"
        )
    missing = set(ds_engine.param_names.values()) - {slot.name for slot in slots(ds_engine)}
    if missing:
        raise ValueError(
            f"parameter {min(missing)} is not trained, so no checkpoint would hold it: give every "
            "parameter to the optimizer"
        )


def inner_optimizer(ds_engine: Any) -> torch.optim.Optimizer:
    """The optimizer that steps the fp32 tensors, without DeepSpeed's wrapper."""
    inner: torch.optim.Optimizer = getattr(ds_engine.optimizer, "optimizer", ds_engine.optimizer)
    return inner


def slots(ds_engine: Any) -> list[ShardedParameter]:
    """One slot for each parameter, in the optimizer's order."""
    optimizer = ds_engine.optimizer
    names, rank = ds_engine.param_names, ds_engine.global_rank
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(_stage3_slots(names, rank, optimizer))
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return list(_stage12_slots(names, rank, optimizer))
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(_bf16_slots(names, rank, optimizer))
    if hasattr(optimizer, "fp32_groups_flat"):
        return list(_fused_slots(names, optimizer))
    return list(_stage0_slots(names, optimizer))


def owned_shards(ds_engine: Any) -> list[ShardedParameter]:
    """This process's part: over all processes, every element is in exactly one slot."""
    found = slots(ds_engine)
    if ds_engine.zero_optimization():
        return found
    # Without ZeRO all have everything: each takes an equal, contiguous share.
    total = sum(slot.length for slot in found)
    low = total * ds_engine.global_rank // ds_engine.world_size
    high = total * (ds_engine.global_rank + 1) // ds_engine.world_size
    return list(_cut(found, low, high))


def _stage3_slots(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[ShardedParameter]:
    for index, sub_group in enumerate(optimizer.fp16_groups):
        offset = 0
        for parameter in sub_group:
            size = parameter.partition_numel()
            start = min(size * rank, parameter.ds_numel)
            yield ShardedParameter(
                name=names[parameter],
                parameter=parameter,
                shape=tuple(parameter.ds_shape),
                group=optimizer.sub_group_to_group_id[index],
                start=start,
                length=min(size, parameter.ds_numel - start),
                master=optimizer.fp32_partitioned_groups_flat[index],
                offset=offset,
            )
            offset += size


def _stage12_slots(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[ShardedParameter]:
    # Not from DeepSpeed's own map (_hp_mapping): with round_robin_gradients that one is wrong.
    for group, parameters in enumerate(optimizer.round_robin_bit16_groups):
        master = optimizer.single_partition_of_fp32_groups[group]
        offsets = optimizer.round_robin_bit16_offsets[group]
        for parameter, begin in zip(parameters, offsets, strict=True):
            begin_here = begin - rank * optimizer.partition_size[group]
            yield _slot_of_flat(names[parameter], parameter, group, master, begin_here)


def _bf16_slots(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[ShardedParameter]:
    """As stage 1: bf16 with fp32 gradient accumulation has a wrapper of its own there."""
    for group, parameters in enumerate(optimizer.bf16_groups):
        master = optimizer.fp32_groups_flat_partition[group]
        begin = -rank * master.numel()
        for parameter in parameters:
            yield _slot_of_flat(names[parameter], parameter, group, master, begin)
            begin += parameter.numel()


def _fused_slots(names: dict[Any, str], optimizer: Any) -> Iterator[ShardedParameter]:
    for group, master in enumerate(optimizer.fp32_groups_flat):
        begin = 0
        for parameter in optimizer.fp16_groups[group]:
            yield _slot_of_flat(names[parameter], parameter, group, master, begin)
            begin += parameter.numel()


def _stage0_slots(names: dict[Any, str], optimizer: Any) -> Iterator[ShardedParameter]:
    groups = [group["params"] for group in optimizer.param_groups]
    parameters = getattr(optimizer, "fp16_groups", groups)
    for group, pairs in enumerate(zip(parameters, groups, strict=True)):
        for parameter, master in zip(*pairs, strict=True):
            yield _slot_of_flat(names[parameter], parameter, group, master, 0)


def _slot_of_flat(
    name: str, parameter: Any, group: int, master: Tensor, begin: int
) -> ShardedParameter:
    """What a piece `master` of a flat group holds of the parameter that begins at `begin`.

    `begin` is negative when the parameter begins in an earlier piece.
    """
    low = min(max(begin, 0), master.numel())
    high = max(min(begin + parameter.numel(), master.numel()), low)
    return ShardedParameter(
        name=name,
        parameter=parameter,
        shape=tuple(parameter.shape),
        group=group,
        start=low - begin if low < high else 0,
        length=high - low,
        master=master,
        offset=low,
    )


def _cut(found: list[ShardedParameter], low: int, high: int) -> Iterator[ShardedParameter]:
    """The elements [low, high) of slots laid end to end."""
    position = 0
    for slot in found:
        begin = min(max(low - position, 0), slot.length)
        end = min(max(high - position, 0), slot.length)
        yield dataclasses.replace(
            slot, start=slot.start + begin, offset=slot.offset + begin, length=end - begin
        )
        position += slot.length
