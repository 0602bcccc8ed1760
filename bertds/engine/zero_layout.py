"""Where a live DeepSpeed engine keeps the fp32 master weights and the optimizer's moments.

The place differs by ZeRO stage and precision: in the parameters themselves, in one flat tensor per
parameter group, in this rank's piece of such a tensor, or in a piece of each parameter. Here all are
described by one type, `ShardedParameter`: elements [start, start + length) of a parameter are in the
tensor `master` from `offset` on. The optimizer's state of `master` has the same layout.

    stage 0    fp32: the parameters     bf16, fp16: an fp32 copy of each (FusedAdam: of each group)
    stage 1-2  the group concatenated, cut into equal pieces, the last one padded
    stage 3    each parameter cut into equal pieces, those of a group concatenated

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
    """A contiguous piece of one parameter on this rank; it may be empty."""

    name: str
    parameter: Any
    shape: tuple[int, ...]
    """The shape of the whole parameter."""
    group: int
    """Index of the optimizer's parameter group."""
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
    """Reject at the start of a run what could not be saved hours later.

    Raises:
        ValueError: The optimizer's state cannot be divided differently, or a parameter is not
            trained.
    """
    name = type(inner_optimizer(ds_engine)).__name__
    if name in _NOT_ELEMENTWISE:
        raise ValueError(
            f"optimizer.type {name} keeps states that are not elementwise, which a checkpoint cannot "
            "hold: choose another, such as AdamW"
        )
    missing = set(ds_engine.param_names.values()) - {
        shard.name for shard in parameter_shards(ds_engine)
    }
    if missing:
        raise ValueError(
            f"parameter {min(missing)} is not trained, so a checkpoint would not hold it: give every "
            "parameter to the optimizer"
        )


def inner_optimizer(ds_engine: Any) -> torch.optim.Optimizer:
    """The optimizer that steps the fp32 tensors, without DeepSpeed's wrapper."""
    inner: torch.optim.Optimizer = getattr(ds_engine.optimizer, "optimizer", ds_engine.optimizer)
    return inner


def parameter_shards(ds_engine: Any) -> list[ShardedParameter]:
    """The shard of each parameter on this rank, in the optimizer's order."""
    optimizer = ds_engine.optimizer
    names, rank = ds_engine.param_names, ds_engine.global_rank
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(_stage3_shards(names, rank, optimizer))
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return list(_stage12_shards(names, rank, optimizer))
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(_bf16_shards(names, rank, optimizer))
    if hasattr(optimizer, "fp32_groups_flat"):
        return list(_fused_shards(names, optimizer))
    return list(_stage0_shards(names, optimizer))


def owned_shards(ds_engine: Any) -> list[ShardedParameter]:
    """This rank's part: over all ranks, every element is in exactly one shard."""
    shards = parameter_shards(ds_engine)
    if ds_engine.zero_optimization():
        return shards
    # Without ZeRO every rank has everything: each takes an equal, contiguous part.
    total = sum(shard.length for shard in shards)
    low = total * ds_engine.global_rank // ds_engine.world_size
    high = total * (ds_engine.global_rank + 1) // ds_engine.world_size
    return list(_cut(shards, low, high))


def _stage3_shards(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[ShardedParameter]:
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


def _stage12_shards(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[ShardedParameter]:
    # Not from DeepSpeed's own map (_hp_mapping), which is wrong with round_robin_gradients.
    for group, parameters in enumerate(optimizer.round_robin_bit16_groups):
        master = optimizer.single_partition_of_fp32_groups[group]
        offsets = optimizer.round_robin_bit16_offsets[group]
        for parameter, begin in zip(parameters, offsets, strict=True):
            begin_here = begin - rank * optimizer.partition_size[group]
            yield _shard_of_flat(names[parameter], parameter, group, master, begin_here)


def _bf16_shards(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[ShardedParameter]:
    """As stage 1, in the separate wrapper of bf16 with fp32 gradient accumulation."""
    for group, parameters in enumerate(optimizer.bf16_groups):
        master = optimizer.fp32_groups_flat_partition[group]
        begin = -rank * master.numel()
        for parameter in parameters:
            yield _shard_of_flat(names[parameter], parameter, group, master, begin)
            begin += parameter.numel()


def _fused_shards(names: dict[Any, str], optimizer: Any) -> Iterator[ShardedParameter]:
    for group, master in enumerate(optimizer.fp32_groups_flat):
        begin = 0
        for parameter in optimizer.fp16_groups[group]:
            yield _shard_of_flat(names[parameter], parameter, group, master, begin)
            begin += parameter.numel()


def _stage0_shards(names: dict[Any, str], optimizer: Any) -> Iterator[ShardedParameter]:
    groups = [group["params"] for group in optimizer.param_groups]
    parameters = getattr(optimizer, "fp16_groups", groups)
    for group, pairs in enumerate(zip(parameters, groups, strict=True)):
        for parameter, master in zip(*pairs, strict=True):
            yield _shard_of_flat(names[parameter], parameter, group, master, 0)


def _shard_of_flat(
    name: str, parameter: Any, group: int, master: Tensor, begin: int
) -> ShardedParameter:
    """The part of a parameter, which begins at `begin`, in a piece `master` of a flat group.

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


def _cut(shards: list[ShardedParameter], low: int, high: int) -> Iterator[ShardedParameter]:
    """The elements [low, high) of the concatenated shards."""
    position = 0
    for shard in shards:
        begin = min(max(low - position, 0), shard.length)
        end = min(max(high - position, 0), shard.length)
        yield dataclasses.replace(
            shard, start=shard.start + begin, offset=shard.offset + begin, length=end - begin
        )
        position += shard.length
