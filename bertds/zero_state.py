"""Fp32 weights and optimizer moments of a live DeepSpeed engine, by parameter name.

DeepSpeed keeps the numbers that training needs (fp32 master weights and the optimizer's moments)
in a different place for each ZeRO stage and precision: in the parameters themselves, in one flat
tensor a parameter group, in this process's piece of such a tensor, or in a piece of each
parameter. This file describes all of them the same way, as *slots*: elements [start, start +
length) of parameter ``name`` lie in tensor ``master`` from ``offset`` on, and the optimizer's
state of ``master`` has the same layout. Reading and writing slots is all that a checkpoint needs,
so one written under any stage, precision and number of processes loads under any other.

Nothing here talks to other processes, except `refresh_weights`, which all of them must call. The
attributes used are those of DeepSpeed 0.19.8; each is touched in one function only.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bertds.fragments import WEIGHT, CheckpointError, FragmentReader, key_of

# Optimizers that keep the same numbers under the same names.
_FAMILIES = {
    "AdamW": "Adam",
    "FusedAdam": "Adam",
    "DeepSpeedCPUAdam": "Adam",
    "FusedLion": "Lion",
    "DeepSpeedCPULion": "Lion",
}
_NOT_ELEMENTWISE = {"Adafactor", "LBFGS", "SparseAdam"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Where a contiguous piece of one parameter lives in this process; the piece may be empty."""

    name: str
    parameter: torch.nn.Parameter
    shape: tuple[int, ...]
    group: int
    start: int
    """First element of the piece, in the flattened parameter."""
    length: int
    master: torch.Tensor
    """The fp32 tensor that the optimizer steps; the key of its state."""
    offset: int
    """Where the piece begins in the flattened ``master``."""

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """The piece, as a flat view into ``master`` or a moment of the same layout."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.length]


def slots(ds_engine: Any) -> list[Slot]:
    """One slot for each trained parameter, in the optimizer's order.

    Raises:
        CheckpointError: optimizer states on NVMe or split between host and device, which cannot be
            reached here.
        ValueError: a parameter that is not trained, which a checkpoint would silently lose.
    """
    optimizer = ds_engine.optimizer
    names, rank = ds_engine.param_names, ds_engine.global_rank
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        found = list(_stage3_slots(names, rank, optimizer))
    elif hasattr(optimizer, "single_partition_of_fp32_groups"):
        found = list(_stage12_slots(names, rank, optimizer))
    elif hasattr(optimizer, "fp32_groups_flat_partition"):
        found = list(_bf16_slots(names, rank, optimizer))
    else:
        found = list(_stage0_slots(names, optimizer))
    missing = set(names.values()) - {slot.name for slot in found}
    if missing:
        raise ValueError(
            f"Parameter {min(missing)} is not trained, so no checkpoint would hold it."
        )
    return found


def own_slots(ds_engine: Any) -> list[Slot]:
    """This process's part: over all processes, every element is in exactly one slot."""
    found = slots(ds_engine)
    if ds_engine.zero_optimization():
        return found
    # Without ZeRO all have everything: each takes an equal, contiguous share.
    total = sum(slot.length for slot in found)
    low = total * ds_engine.global_rank // ds_engine.world_size
    high = total * (ds_engine.global_rank + 1) // ds_engine.world_size
    return list(_cut(found, low, high))


def fragments(ds_engine: Any) -> dict[str, torch.Tensor]:
    """Views of this process's weights and moments, by fragment key; nothing is copied.

    Raises:
        CheckpointError: the optimizer keeps a tensor that is not one number for each weight.
    """
    state = _inner(ds_engine).state
    found: dict[str, torch.Tensor] = {}
    for slot in own_slots(ds_engine):
        if slot.length == 0:
            continue
        found[key_of(WEIGHT, slot.name, slot.start)] = slot.view(slot.master)
        for kind, moment in _moments(state.get(slot.master, {}), slot).items():
            found[key_of(kind, slot.name, slot.start)] = slot.view(moment)
    return found


def shapes(ds_engine: Any) -> dict[str, list[int]]:
    """The shape of each parameter, by name."""
    return {slot.name: list(slot.shape) for slot in slots(ds_engine)}


def load_weights(ds_engine: Any, reader: FragmentReader) -> None:
    """Fills the fp32 weights that this process holds; `refresh_weights` must follow in all.

    Raises:
        CheckpointError: a range is missing in the files.
    """
    for slot in slots(ds_engine):
        reader.read_into(WEIGHT, slot.name, slot.start, slot.view(slot.master))


def load_moments(ds_engine: Any, reader: FragmentReader, saved: dict[str, Any]) -> None:
    """Fills the moments that this process holds, in an engine fresh or between two steps.

    The optimizer's settings (rate, decay, betas) are left alone.

    Args:
        ds_engine: the DeepSpeed engine.
        reader: the files of a checkpoint.
        saved: what `optimizer_scalars` returned when it was written.

    Raises:
        CheckpointError: a range is missing in the files, or the moments are those of another kind
            of optimizer.
    """
    inner = _inner(ds_engine)
    _check_family(inner, saved["optimizer"])
    by_master: dict[torch.Tensor, list[Slot]] = defaultdict(list)
    for slot in slots(ds_engine):
        by_master[slot.master].append(slot)
    for master, parts in by_master.items():
        _load_state(inner, master, parts, reader, saved["values"])


def optimizer_scalars(ds_engine: Any) -> dict[str, Any]:
    """The optimizer's numbers that are not one for each weight (step counts), as plain JSON.

    Returns:
        ``{"optimizer": class name, "values": {scalar: {parameter name: number}}}``, alike in all
        processes.
    """
    inner = _inner(ds_engine)
    values: dict[str, dict[str, float]] = defaultdict(dict)
    found = slots(ds_engine)
    for slot in found:
        for kind, value in inner.state.get(slot.master, {}).items():
            if _is_scalar(value):
                values[kind][slot.name] = float(value)
    if not type(inner).__module__.startswith("torch."):
        # FusedAdam and FusedLion count in the last tensor of a group only.
        for numbers in values.values():
            _raise_to_group_maximum(numbers, found)
    return {"optimizer": type(inner).__name__, "values": values}


def refresh_weights(ds_engine: Any) -> None:
    """Computes the weights in use from the fp32 ones; all processes must call it."""
    optimizer = ds_engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        for sub_group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(sub_group)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    else:
        for slot in slots(ds_engine):
            if slot.master is not slot.parameter:
                slot.parameter.detach().view(-1).copy_(slot.view(slot.master))


def undo_initial_step(ds_engine: Any) -> None:
    """Takes back the optimizer step that DeepSpeed makes on start-up with bf16 or fp16 at stage 0.

    Its wrappers step once on zero gradients to allocate the moments. Under coupled weight decay
    that moves every weight by the full learning rate, and all later bias corrections are one step
    late. To be called right after ``deepspeed.initialize``; does nothing elsewhere.
    """
    optimizer = ds_engine.optimizer
    if hasattr(optimizer, "fp32_groups") or hasattr(optimizer, "fp32_groups_flat"):
        for slot in slots(ds_engine):
            slot.view(slot.master).copy_(slot.parameter.detach().view(-1))
        _inner(ds_engine).state.clear()


def _inner(ds_engine: Any) -> torch.optim.Optimizer:
    """The optimizer that steps the fp32 tensors, without DeepSpeed's wrapper."""
    inner: torch.optim.Optimizer = getattr(ds_engine.optimizer, "optimizer", ds_engine.optimizer)
    return inner


def _partial_offload(optimizer: Any) -> float:
    """The share of stage 3's optimizer states that is offloaded, if any is."""
    return optimizer.partial_offload if getattr(optimizer, "offload_optimizer", False) else 1.0


def _stage3_slots(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[Slot]:
    """Each process has an equal piece of each parameter, the last ones padded."""
    for index, sub_group in enumerate(optimizer.fp16_groups):
        offset = 0
        for parameter in sub_group:
            held = parameter.partition_numel()
            start = min(held * rank, parameter.ds_numel)
            yield Slot(
                name=names[parameter],
                parameter=parameter,
                shape=tuple(parameter.ds_shape),
                group=optimizer.sub_group_to_group_id[index],
                start=start,
                length=min(held, parameter.ds_numel - start),
                master=optimizer.fp32_partitioned_groups_flat[index],
                offset=offset,
            )
            offset += held


def _stage12_slots(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[Slot]:
    """Each process has an equal piece of each group laid end to end (in round-robin order)."""
    for group, parameters in enumerate(optimizer.round_robin_bit16_groups):
        size = optimizer.partition_size[group]
        first = size * rank
        offsets = optimizer.round_robin_bit16_offsets[group]
        master = optimizer.single_partition_of_fp32_groups[group]
        for parameter, begin in zip(parameters, offsets, strict=True):
            yield _part_of_flat(names[parameter], parameter, group, master, begin - first, size)


def _bf16_slots(names: dict[Any, str], rank: int, optimizer: Any) -> Iterator[Slot]:
    """As stage 1: bf16 with fp32 gradient accumulation has a wrapper of its own."""
    for group, parameters in enumerate(optimizer.bf16_groups):
        master = optimizer.fp32_groups_flat_partition[group]
        size = master.numel()
        begin = -size * rank
        for parameter in parameters:
            yield _part_of_flat(names[parameter], parameter, group, master, begin, size)
            begin += parameter.numel()


def _stage0_slots(names: dict[Any, str], optimizer: Any) -> Iterator[Slot]:
    """Everything is in each process: the parameters, or an fp32 copy of each, or of each group."""
    if hasattr(optimizer, "fp32_groups_flat"):
        for group, master in enumerate(optimizer.fp32_groups_flat):
            begin = 0
            for parameter in optimizer.fp16_groups[group]:
                yield _part_of_flat(
                    names[parameter], parameter, group, master, begin, master.numel()
                )
                begin += parameter.numel()
        return
    masters = [group["params"] for group in getattr(optimizer, "optimizer", optimizer).param_groups]
    parameters = getattr(optimizer, "fp16_groups", masters)
    for group, pairs in enumerate(zip(parameters, masters, strict=True)):
        for parameter, master in zip(*pairs, strict=True):
            yield _part_of_flat(names[parameter], parameter, group, master, 0, master.numel())


def _part_of_flat(
    name: str, parameter: Any, group: int, master: torch.Tensor, begin: int, size: int
) -> Slot:
    """The part of a parameter in a flat piece of ``size`` elements, where it begins at ``begin``.

    ``begin`` is negative when the parameter begins in an earlier piece.
    """
    low = min(max(begin, 0), size)
    high = max(min(begin + parameter.numel(), size), low)
    return Slot(
        name=name,
        parameter=parameter,
        shape=tuple(parameter.shape),
        group=group,
        start=low - begin if high > low else 0,
        length=high - low,
        master=master,
        offset=low,
    )


def _cut(found: list[Slot], low: int, high: int) -> Iterator[Slot]:
    """The slots' elements [low, high), counted over all slots end to end."""
    position = 0
    for slot in found:
        begin = min(max(low - position, 0), slot.length)
        end = min(max(high - position, 0), slot.length)
        yield dataclasses.replace(
            slot, start=slot.start + begin, offset=slot.offset + begin, length=end - begin
        )
        position += slot.length


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (torch.is_tensor(value) and value.dim() == 0)


def _moments(state: dict[str, Any], slot: Slot) -> dict[str, torch.Tensor]:
    """The optimizer's tensors of one master: one number for each weight, or refused."""
    moments = {}
    for kind, value in state.items():
        if not torch.is_tensor(value) or value.dim() == 0:
            continue
        if value.numel() != slot.master.numel():
            raise CheckpointError(
                f"The optimizer keeps {kind} of {slot.name} in shape {tuple(value.shape)}, not one "
                "number for each weight, so it cannot be written to a checkpoint: choose another "
                "optimizer.type."
            )
        moments[kind] = value
    return moments


def _raise_to_group_maximum(numbers: dict[str, float], found: list[Slot]) -> None:
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
            f"The checkpoint holds the moments of {saved}, the case asks for {name}: keep the "
            "optimizer, or start a new run from the weights alone with run.init_from."
        )


def _load_state(
    inner: torch.optim.Optimizer,
    master: torch.Tensor,
    parts: list[Slot],
    reader: FragmentReader,
    values: dict[str, dict[str, float]],
) -> None:
    """Gives one master its moments and scalars, in place where they exist."""
    kinds = sorted({kind for slot in parts for kind in reader.kinds(slot.name)} - {WEIGHT})
    scalars = {
        kind: max(numbers[slot.name] for slot in parts if slot.name in numbers)
        for kind, numbers in values.items()
        if any(slot.name in numbers for slot in parts)
    }
    if not kinds and not scalars:
        inner.state.pop(master, None)
        return
    state = inner.state[master]
    for kind in kinds:
        if kind not in state:
            state[kind] = torch.zeros_like(master, requires_grad=False)
        for slot in parts:
            reader.read_into(kind, slot.name, slot.start, slot.view(state[kind]))
    for kind, value in scalars.items():
        state[kind] = _scalar_for(inner, master, value)


def _scalar_for(
    inner: torch.optim.Optimizer, master: torch.Tensor, value: float
) -> torch.Tensor | int | float:
    """A step count as the optimizer keeps it: a tensor in torch's, a number in DeepSpeed's."""
    if type(inner).__module__.startswith("torch."):
        on_device = inner.defaults.get("capturable") or inner.defaults.get("fused")
        device = master.device if on_device else torch.device("cpu")
        return torch.tensor(value, dtype=torch.float32, device=device)
    return int(value) if value.is_integer() else value
