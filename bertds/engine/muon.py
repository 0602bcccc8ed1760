"""Gives Muon its parameter groups, and tells it where DeepSpeed keeps the matrices."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bertds.config.case import Case
from bertds.config.optimizer_schema import MuonParams
from bertds.distributed.world import World
from bertds.engine.deepspeed_compat import accept_with_zero
from bertds.engine.zero_layout import ShardedParameter, inner_optimizer, parameter_shards
from bertds.optim.muon import MatrixPart, Muon


def muon_of(case: Case) -> Callable[[list[dict[str, Any]]], Muon] | None:
    """A function of parameter groups that makes the optimizer; None for another optimizer."""
    block = case.deepspeed["optimizer"]
    if block["type"] != "Muon":
        return None
    accept_with_zero(Muon)
    return partial(_build, MuonParams.model_validate(block["params"]))


def _build(params: MuonParams, groups: list[dict[str, Any]]) -> Muon:
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


def place_matrices(
    ds_engine: Any, stacks: Mapping[str, int], world: World, device: torch.device
) -> None:
    """Tell Muon which part of which matrix is where; all ranks must call it.

    Args:
        ds_engine: DeepSpeed's engine, just initialized.
        stacks: The names of the matrices, and how many are stacked in one parameter.
        world: The ranks.
        device: Of this rank.
    """
    optimizer = inner_optimizer(ds_engine)
    assert isinstance(optimizer, Muon)
    shards = [shard for shard in parameter_shards(ds_engine) if shard.name in stacks]
    all_reduce: Callable[[Tensor], object] = dist.all_reduce
    owners = torch.tensor([shard.length == _size(shard) for shard in shards], dtype=torch.int32)
    owners = owners.to(device)
    if world.world_size > 1:
        all_reduce(owners)
    parts: dict[Tensor, list[MatrixPart]] = defaultdict(list)
    for shard, owner in zip(shards, owners.tolist(), strict=True):
        parts[shard.master].append(_part(shard, stacks[shard.name], is_split=owner == 0))
    is_16_bit = ds_engine.bfloat16_enabled() or ds_engine.fp16_enabled()
    dtype = torch.bfloat16 if is_16_bit and device.type == "cuda" else torch.float32
    optimizer.place(dict(parts), all_reduce, dtype)


def _part(shard: ShardedParameter, stacked: int, *, is_split: bool) -> MatrixPart:
    rows, columns = shard.shape
    return MatrixPart(
        shape=(stacked, rows // stacked, columns),
        start=shard.start,
        length=shard.length,
        offset=shard.offset,
        is_split=is_split,
    )


def _size(shard: ShardedParameter) -> int:
    rows, columns = shard.shape
    return rows * columns
