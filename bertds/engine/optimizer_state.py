"""Fp32 weights and optimizer moments of a live DeepSpeed engine, read and written by name.

A moving average of the weights is treated as a moment, if there is one. What is read under one ZeRO stage, precision and world size can be written under any other,
bit-exact: weights and moments are fp32 throughout, and padding is dropped. Step counts are not
elementwise, so they are kept separately, by parameter. The optimizer's settings (learning rate,
decay, betas) are not part of the state: they come from the case.

Nothing here communicates with other ranks, except `refresh_weights`, which all ranks must call.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bertds.engine.deepspeed_compat import rebuild_stage3_weights
from bertds.engine.weight_average import WeightAverage
from bertds.engine.zero_layout import (
    ShardedParameter,
    inner_optimizer,
    owned_shards,
    parameter_shards,
)
from bertds.errors import CheckpointError

WEIGHT = "weight"
"""The kind of a parameter itself; other kinds are the optimizer's names of its moments."""
EMA = "ema"
"""The kind of the moving average of a parameter; no optimizer has a moment of this name."""


class TensorKey(NamedTuple):
    """Names a contiguous piece of a flattened parameter or moment."""

    kind: str
    """`weight`, `exp_avg`, …"""
    name: str
    """Of the parameter."""
    start: int
    """First element of the piece in the flattened tensor."""


class TensorSource(Protocol):
    """Where the fp32 numbers of a checkpoint are read from."""

    def kinds(self, name: str) -> set[str]:
        """What is stored of a parameter: `weight` and its moments."""

    def read_into(self, kind: str, name: str, start: int, out: Tensor) -> None:
        """Fill `out` (flat, any device and dtype) with the elements from `start` on."""


# Optimizers whose states have the same names and meaning.
_FAMILIES = {
    "AdamW": "Adam",
    "StableAdamW": "Adam",
    "FusedAdam": "Adam",
    "DeepSpeedCPUAdam": "Adam",
    "FusedLion": "Lion",
    "DeepSpeedCPULion": "Lion",
}


def shapes(ds_engine: Any) -> dict[str, list[int]]:
    """The shape of each parameter by name."""
    return {shard.name: list(shard.shape) for shard in parameter_shards(ds_engine)}


def fragments(ds_engine: Any, average: WeightAverage | None = None) -> dict[TensorKey, Tensor]:
    """Views of this rank's part of weights, moments and average; nothing is copied.

    Raises:
        CheckpointError: The optimizer keeps a tensor that is not elementwise.
    """
    state = inner_optimizer(ds_engine).state
    tensors: dict[TensorKey, Tensor] = {}
    for shard in owned_shards(ds_engine):
        if shard.length > 0:
            tensors[TensorKey(WEIGHT, shard.name, shard.start)] = shard.of(shard.master)
            for kind, moment in _moments(state.get(shard.master, {}), shard).items():
                tensors[TensorKey(kind, shard.name, shard.start)] = shard.of(moment)
            if average is not None:
                tensors[TensorKey(EMA, shard.name, shard.start)] = average.of(shard)
    return tensors


def not_finite(ds_engine: Any, average: WeightAverage | None = None) -> str:
    """The name of a NaN or infinite number of this rank's part; empty if all are finite.

    It takes one pass at memory speed, and one wait for the device.
    """
    parts = fragments(ds_engine, average)
    # A finite sum has finite numbers only. A sum may also overflow, so then each tensor is checked.
    sums = [tensor.sum(dtype=torch.float32) for tensor in parts.values()]
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return ""
    non_finite = (key for key, tensor in parts.items() if not bool(tensor.isfinite().all()))
    return next((f"{key.kind} of {key.name}" for key in non_finite), "")


def optimizer_scalars(ds_engine: Any) -> dict[str, Any]:
    """The optimizer's state that is not elementwise: step counts.

    Returns:
        Plain JSON, the same on all ranks:
        `{"optimizer": class, "values": {scalar: {parameter: number}}}`.
    """
    inner = inner_optimizer(ds_engine)
    shards = parameter_shards(ds_engine)
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for shard in shards:
        for kind, value in inner.state.get(shard.master, {}).items():
            if _is_scalar(value):
                values[kind][shard.name] = float(value)
    if not _is_of_torch(inner):
        # FusedAdam and FusedLion count in the last tensor of a group only.
        for numbers in values.values():
            _raise_to_group_maximum(numbers, shards)
    return {"optimizer": type(inner).__name__, "values": values}


def load_weights(ds_engine: Any, reader: TensorSource) -> None:
    """Fill the fp32 weights that this rank holds; `refresh_weights` must follow on all ranks.

    Raises:
        CheckpointError: The files lack a range.
    """
    for shard in parameter_shards(ds_engine):
        reader.read_into(WEIGHT, shard.name, shard.start, shard.of(shard.master))


def set_weights(ds_engine: Any, weights: Mapping[str, Tensor]) -> None:
    """Fill them from whole tensors by name; `refresh_weights` must follow on all ranks.

    A parameter without a tensor keeps its weights.
    """
    for shard in parameter_shards(ds_engine):
        if shard.name not in weights:
            continue
        flat = weights[shard.name].view(-1)
        shard.of(shard.master).copy_(flat[shard.start : shard.start + shard.length])


def load_moments(ds_engine: Any, reader: TensorSource, saved: dict[str, Any]) -> None:
    """Fill the moments and step counts that this rank holds.

    Args:
        ds_engine: A fresh engine, or one between two steps.
        reader: The files of a checkpoint.
        saved: What `optimizer_scalars` returned when it was written.

    Raises:
        CheckpointError: The files lack a range, or the moments are those of another optimizer.
    """
    inner = inner_optimizer(ds_engine)
    _check_family(inner, saved["optimizer"])
    by_master: dict[Tensor, list[ShardedParameter]] = defaultdict(list)
    for shard in parameter_shards(ds_engine):
        by_master[shard.master].append(shard)
    for master, parts in by_master.items():
        scalars = _scalars_of(parts, saved["values"])
        _load_state(inner, master, parts, reader, scalars)


def has_average(ds_engine: Any, reader: TensorSource) -> bool:
    """Whether the files hold a moving average of every parameter."""
    return all(EMA in reader.kinds(shard.name) for shard in parameter_shards(ds_engine))


def load_average(ds_engine: Any, reader: TensorSource, average: WeightAverage) -> None:
    """Fill the part of the moving average that this rank holds.

    Raises:
        CheckpointError: The files lack a range.
    """
    for shard in parameter_shards(ds_engine):
        reader.read_into(EMA, shard.name, shard.start, average.of(shard))


def refresh_weights(ds_engine: Any) -> None:
    """Compute the weights in use from the fp32 ones; all ranks must call it."""
    optimizer = ds_engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        rebuild_stage3_weights(optimizer)
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    else:
        for shard in parameter_shards(ds_engine):
            if shard.master is not shard.parameter:
                shard.parameter.detach().view(-1).copy_(shard.of(shard.master))


def undo_initial_step(ds_engine: Any) -> None:
    """Undo the step that DeepSpeed makes when it starts with bf16 or fp16 at ZeRO stage 0.

    Its wrappers step once, on zero gradients, to allocate the moments. In this step decay changes
    the weights (coupled L2 changes each by the full learning rate), and all later bias corrections
    come one step late. Call it right after `deepspeed.initialize`; otherwise it does nothing.
    """
    optimizer = ds_engine.optimizer
    if hasattr(optimizer, "fp32_groups") or hasattr(optimizer, "fp32_groups_flat"):
        for shard in parameter_shards(ds_engine):
            shard.of(shard.master).copy_(shard.parameter.detach().view(-1))
        optimizer.optimizer.state.clear()


def _is_of_torch(inner: torch.optim.Optimizer) -> bool:
    """Whether it counts steps as torch does; our own optimizers are a torch.optim.Adam."""
    return type(inner).__module__.startswith("torch.") or isinstance(inner, torch.optim.Adam)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (torch.is_tensor(value) and value.dim() == 0)


def _moments(state: dict[str, Any], shard: ShardedParameter) -> dict[str, Tensor]:
    moments = {}
    for kind, value in state.items():
        if not torch.is_tensor(value) or value.dim() == 0:
            continue
        if value.numel() != shard.master.numel():
            raise CheckpointError(
                f"the optimizer keeps {kind} of {shard.name} in shape {tuple(value.shape)}, not one "
                "number per weight: choose another optimizer.type"
            )
        moments[kind] = value
    return moments


def _raise_to_group_maximum(numbers: dict[str, float], shards: list[ShardedParameter]) -> None:
    largest: dict[int, float] = defaultdict(lambda: -math.inf)
    for shard in shards:
        largest[shard.group] = max(largest[shard.group], numbers.get(shard.name, -math.inf))
    for shard in shards:
        if shard.name in numbers:
            numbers[shard.name] = largest[shard.group]


def _check_family(inner: torch.optim.Optimizer, saved: str) -> None:
    name = type(inner).__name__
    if _FAMILIES.get(name, name) != _FAMILIES.get(saved, saved):
        raise CheckpointError(
            f"the checkpoint holds the moments of {saved}, but the case has {name}: keep the "
            "optimizer, or start a new run from the weights alone with run.init_from"
        )


def _scalars_of(
    parts: list[ShardedParameter], values: dict[str, dict[str, float]]
) -> dict[str, float]:
    """The scalars of one master tensor; those of its parameters agree in any normal run."""
    scalars = {}
    for kind, numbers in values.items():
        here = [numbers[shard.name] for shard in parts if shard.name in numbers]
        if here:
            scalars[kind] = max(here)
    return scalars


def _load_state(
    inner: torch.optim.Optimizer,
    master: Tensor,
    parts: list[ShardedParameter],
    reader: TensorSource,
    scalars: dict[str, float],
) -> None:
    """Fill the moments and scalars of one master tensor; a checkpoint of step 0 has none."""
    kinds = sorted(set().union(*(reader.kinds(shard.name) for shard in parts)) - {WEIGHT, EMA})
    if not kinds and not scalars:
        inner.state.pop(master, None)
        return
    state = inner.state[master]
    for kind in kinds:
        if kind not in state:
            # DeepSpeed's CPU Adam keeps fp32 moments beside 16-bit masters.
            in_fp32 = getattr(inner, "fp32_optimizer_states", False)
            dtype = torch.float32 if in_fp32 else master.dtype
            state[kind] = torch.zeros_like(master, dtype=dtype, requires_grad=False)
        for shard in parts:
            reader.read_into(kind, shard.name, shard.start, shard.of(state[kind]))
    for kind, value in scalars.items():
        state[kind] = _scalar_for(inner, master, value)


def _scalar_for(inner: torch.optim.Optimizer, master: Tensor, value: float) -> Tensor | int | float:
    """A step count as the optimizer keeps it: torch's as a tensor, DeepSpeed's as a number."""
    if _is_of_torch(inner):
        on_device = inner.defaults.get("capturable") or inner.defaults.get("fused")
        device = master.device if on_device else torch.device("cpu")
        return torch.tensor(value, dtype=torch.float32, device=device)
    return int(value) if value.is_integer() else value
