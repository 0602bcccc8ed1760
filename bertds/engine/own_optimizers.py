"""Makes the optimizers that are our own, and tells them where DeepSpeed keeps the parameters."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bertds.config.case import Case
from bertds.config.optimizer_schema import MuonParams, StableAdamWParams
from bertds.distributed.world import World
from bertds.engine.deepspeed_compat import accept_with_zero
from bertds.engine.zero_layout import ShardedParameter, inner_optimizer, parameter_shards
from bertds.optim.muon import MatrixPart, Muon
from bertds.optim.stable_adamw import ParameterPart, StableAdamW

Groups = list[dict[str, Any]]


def own_optimizer(case: Case) -> Callable[[Groups], Muon | StableAdamW] | None:
    """A function of parameter groups that makes the optimizer; None for one of DeepSpeed's."""
    block = case.deepspeed["optimizer"]
    if block["type"] == "Muon":
        accept_with_zero(Muon)
        return partial(_muon, MuonParams.model_validate(block["params"]))
    if block["type"] == "StableAdamW":
        accept_with_zero(StableAdamW)
        params = StableAdamWParams.model_validate(block["params"])
        return partial(StableAdamW, **params.model_dump())
    return None


def _muon(params: MuonParams, groups: Groups) -> Muon:
    for group in groups:
        if group.get("matrices"):
            group |= {
                "lr": params.rate_of_matrices,
                "weight_decay": params.decay_of_matrices,
                "momentum": params.momentum,
                "ns_steps": params.ns_steps,
                "adjust_lr_fn": params.adjust_lr_fn,
            }
    return Muon(
        groups,
        lr=params.lr,
        betas=params.betas,
        eps=params.eps,
        weight_decay=params.weight_decay,
    )


def place(ds_engine: Any, stacks: Mapping[str, int], world: World, device: torch.device) -> None:
    """Tell an optimizer of ours where the parameters are; all ranks must call it.

    Args:
        ds_engine: DeepSpeed's engine, just initialized.
        stacks: The names of Muon's matrices, and how many are stacked in one parameter.
        world: The ranks.
        device: Of this rank.
    """
    optimizer = inner_optimizer(ds_engine)
    if isinstance(optimizer, Muon):
        _place_matrices(ds_engine, optimizer, stacks, world, device)
    elif isinstance(optimizer, StableAdamW):
        parts: dict[Tensor, list[ParameterPart]] = defaultdict(list)
        for shard in parameter_shards(ds_engine):
            part = ParameterPart(size=_size(shard), length=shard.length, offset=shard.offset)
            parts[shard.master].append(part)
        is_sharded = ds_engine.zero_optimization() and world.world_size > 1
        optimizer.place(dict(parts), dist.all_reduce if is_sharded else lambda _: None)


def _place_matrices(
    ds_engine: Any, optimizer: Muon, stacks: Mapping[str, int], world: World, device: torch.device
) -> None:
    shards = [shard for shard in parameter_shards(ds_engine) if shard.name in stacks]
    owners = torch.tensor([shard.length == _size(shard) for shard in shards], dtype=torch.int32)
    owners = owners.to(device)
    if world.world_size > 1:
        dist.all_reduce(owners)
    parts: dict[Tensor, list[MatrixPart]] = defaultdict(list)
    for shard, owner in zip(shards, owners.tolist(), strict=True):
        parts[shard.master].append(_matrix(shard, stacks[shard.name], is_split=owner == 0))
    is_16_bit = ds_engine.bfloat16_enabled() or ds_engine.fp16_enabled()
    dtype = torch.bfloat16 if is_16_bit and device.type == "cuda" else torch.float32
    optimizer.place(dict(parts), dist.all_reduce, dtype)


def _matrix(shard: ShardedParameter, stacked: int, *, is_split: bool) -> MatrixPart:
    rows, columns = shard.shape
    return MatrixPart(
        shape=(stacked, rows // stacked, columns),
        start=shard.start,
        length=shard.length,
        offset=shard.offset,
        is_split=is_split,
    )


def _size(shard: ShardedParameter) -> int:
    return math.prod(shard.shape)
