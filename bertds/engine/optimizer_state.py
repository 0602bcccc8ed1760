"""Fp32 weights and optimizer moments of a live DeepSpeed engine, read and written by name.

What is read under one ZeRO stage, precision and number of processes can be written under any
other, to the bit: weights and moments are fp32 throughout, padding is dropped. Step counts are not
one for each weight; they are kept apart, by parameter. The optimizer's settings (rate, decay,
betas) are left to the case at hand.

Nothing here talks to other processes, except `refresh_weights`, which all of them must call.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bertds.engine.deepspeed_compat import rebuild_stage3_weights
from bertds.engine.zero_layout import ShardedParameter, inner_optimizer, owned_shards, slots
from bertds.errors import CheckpointError

WEIGHT = "weight"
"""The kind of a parameter itself; other kinds are the optimizer's names of its moments."""


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


# Optimizers that keep the same numbers under the same names.
_FAMILIES = {
    "AdamW": "Adam",
    "FusedAdam": "Adam",
    "DeepSpeedCPUAdam": "Adam",
    "FusedLion": "Lion",
    "DeepSpeedCPULion": "Lion",
}


def shapes(ds_engine: Any) -> dict[str, list[int]]:
    """The shape of each parameter."""
    return {slot.name: list(slot.shape) for slot in slots(ds_engine)}


def fragments(ds_engine: Any) -> dict[TensorKey, Tensor]:
    """Views of this rank's part of weights and moments; nothing is copied.

    Raises:
        CheckpointError: The optimizer keeps a tensor that is not one number for each weight.
    """
    state = inner_optimizer(ds_engine).state
    found: dict[TensorKey, Tensor] = {}
    for slot in owned_shards(ds_engine):
        if slot.length > 0:
            found[TensorKey(WEIGHT, slot.name, slot.start)] = slot.of(slot.master)
            for kind, moment in _moments(state.get(slot.master, {}), slot).items():
                found[TensorKey(kind, slot.name, slot.start)] = slot.of(moment)
    return found


def not_finite(ds_engine: Any) -> str:
    """A weight or moment of this process's part that is infinite or NaN, by name; else nothing.

    One pass at the speed of the memory, and one wait for the device.
    """
    parts = fragments(ds_engine)
    # A sum is finite only if all its numbers are; it may overflow without, so then each counts.
    sums = [tensor.sum(dtype=torch.float32) for tensor in parts.values()]
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return ""
    spoilt = (key for key, tensor in parts.items() if not bool(tensor.isfinite().all()))
    return next((f"{key.kind} of {key.name}" for key in spoilt), "")


def optimizer_scalars(ds_engine: Any) -> dict[str, Any]:
    """The optimizer's numbers that are not one for each weight: step counts.

    Returns:
        Plain JSON, alike in all processes:
        `{"optimizer": class, "values": {scalar: {parameter: number}}}`.
    """
    inner = inner_optimizer(ds_engine)
    found = slots(ds_engine)
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for slot in found:
        for kind, value in inner.state.get(slot.master, {}).items():
            if _is_scalar(value):
                values[kind][slot.name] = float(value)
    if not _is_of_torch(inner):
        # FusedAdam and FusedLion count in the last tensor of a group only.
        for numbers in values.values():
            _raise_to_group_maximum(numbers, found)
    return {"optimizer": type(inner).__name__, "values": values}


def load_weights(ds_engine: Any, reader: TensorSource) -> None:
    """Fill the fp32 weights that this process holds; `refresh_weights` must follow in all.

    Raises:
        CheckpointError: A range is missing in the files.
    """
    for slot in slots(ds_engine):
        reader.read_into(WEIGHT, slot.name, slot.start, slot.of(slot.master))


def set_weights(ds_engine: Any, weights: Mapping[str, Tensor]) -> None:
    """Fill the same from whole tensors by name; `refresh_weights` must follow in all."""
    for slot in slots(ds_engine):
        flat = weights[slot.name].view(-1)
        slot.of(slot.master).copy_(flat[slot.start : slot.start + slot.length])


def load_moments(ds_engine: Any, reader: TensorSource, saved: dict[str, Any]) -> None:
    """Fill the moments and step counts that this process holds.

    Args:
        ds_engine: A fresh engine, or one between two steps.
        reader: The files of a checkpoint.
        saved: What `optimizer_scalars` said when it was written.

    Raises:
        CheckpointError: A range is missing in the files, or the moments are those of another kind
            of optimizer.
    """
    inner = inner_optimizer(ds_engine)
    _check_family(inner, saved["optimizer"])
    by_master: dict[Tensor, list[ShardedParameter]] = defaultdict(list)
    for slot in slots(ds_engine):
        by_master[slot.master].append(slot)
    for master, parts in by_master.items():
        scalars = _scalars_of(parts, saved["values"])
        _load_state(inner, master, parts, reader, scalars)


def refresh_weights(ds_engine: Any) -> None:
    """Compute the weights in use from the fp32 ones; all processes must call it."""
    optimizer = ds_engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        rebuild_stage3_weights(optimizer)
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    else:
        for slot in slots(ds_engine):
            if slot.master is not slot.parameter:
                slot.parameter.detach().view(-1).copy_(slot.of(slot.master))


def undo_initial_step(ds_engine: Any) -> None:
    """Take back the step that DeepSpeed makes on start-up with bf16 or fp16 at ZeRO stage 0.

    Its wrappers step once, on zero gradients, to allocate the moments. Decay moves the weights in
    it (coupled L2 moves each by the full learning rate), and all later bias corrections come one
    step late. To be called right after `deepspeed.initialize`; elsewhere it does nothing.
    """
    optimizer = ds_engine.optimizer
    if hasattr(optimizer, "fp32_groups") or hasattr(optimizer, "fp32_groups_flat"):
        for slot in slots(ds_engine):
            slot.of(slot.master).copy_(slot.parameter.detach().view(-1))
        optimizer.optimizer.state.clear()


def _is_of_torch(inner: torch.optim.Optimizer) -> bool:
    return type(inner).__module__.startswith("torch.")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (torch.is_tensor(value) and value.dim() == 0)


def _moments(state: dict[str, Any], slot: ShardedParameter) -> dict[str, Tensor]:
    moments = {}
    for kind, value in state.items():
        if not torch.is_tensor(value) or value.dim() == 0:
            continue
        if value.numel() != slot.master.numel():
            raise CheckpointError(
                f"the optimizer keeps {kind} of {slot.name} in shape {tuple(value.shape)}, not one "
                "number for each weight: choose another optimizer.type"
            )
        moments[kind] = value
    return moments


def _raise_to_group_maximum(numbers: dict[str, float], found: list[ShardedParameter]) -> None:
    largest: dict[int, float] = defaultdict(lambda: -math.inf)
    for slot in found:
        largest[slot.group] = max(largest[slot.group], numbers.get(slot.name, -math.inf))
    for slot in found:
        if slot.name in numbers:
            numbers[slot.name] = largest[slot.group]


def _check_family(inner: torch.optim.Optimizer, saved: str) -> None:
    name = type(inner).__name__
    if _FAMILIES.get(name, name) != _FAMILIES.get(saved, saved):
        raise CheckpointError(
            f"the checkpoint holds the moments of {saved}, the case asks for {name}: keep the "
            "optimizer, or begin a new run from the weights alone with run.init_from"
        )


def _scalars_of(
    parts: list[ShardedParameter], values: dict[str, dict[str, float]]
) -> dict[str, float]:
    """The scalars of one master: those of its parameters, which agree in any normal run."""
    scalars = {}
    for kind, numbers in values.items():
        here = [numbers[slot.name] for slot in parts if slot.name in numbers]
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
    """Give one master its moments and scalars; a checkpoint of step 0 has none."""
    kinds = sorted(set().union(*(reader.kinds(slot.name) for slot in parts)) - {WEIGHT})
    if not kinds and not scalars:
        inner.state.pop(master, None)
        return
    state = inner.state[master]
    for kind in kinds:
        if kind not in state:
            # Beside masters in 16 bits DeepSpeed's CPU Adam keeps its moments in 32.
            in_32 = getattr(inner, "fp32_optimizer_states", False)
            dtype = torch.float32 if in_32 else master.dtype
            state[kind] = torch.zeros_like(master, dtype=dtype, requires_grad=False)
        for slot in parts:
            reader.read_into(kind, slot.name, slot.start, slot.of(state[kind]))
    for kind, value in scalars.items():
        state[kind] = _scalar_for(inner, master, value)


def _scalar_for(inner: torch.optim.Optimizer, master: Tensor, value: float) -> Tensor | int | float:
    """A step count as the optimizer keeps it: a tensor in torch's, a number in DeepSpeed's."""
    if _is_of_torch(inner):
        on_device = inner.defaults.get("capturable") or inner.defaults.get("fused")
        device = master.device if on_device else torch.device("cpu")
        return torch.tensor(value, dtype=torch.float32, device=device)
    return int(value) if value.is_integer() else value
