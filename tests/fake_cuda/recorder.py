"""Records a program on the fake card: operators, waits of the host, and live memory."""

import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
"""Operators without a kernel that are no views by their schema."""
_SAME_TYPE = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "index_add",
    "scatter_add_",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_flash_attention",
}
"""Operators that need one type of all their numbers, which fake tensors do not check."""
_ALIGNMENT = 512  # bytes; torch's allocator rounds up to a multiple
_NOT_PLACES = ("deepspeed/accelerator/", "deepspeed/utils/")
"""Files that only pass calls on."""


def _directory_of(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return f"{Path(spec.origin).parent}/"


_PACKAGES = {_directory_of(name): f"{name}/" for name in ("bertds", "deepspeed")}


@dataclass(slots=True)
class Record:
    """What the recorder has seen since the last call of `take`."""

    operators: Counter[str] = field(default_factory=Counter)
    """Operators that start at least one kernel, by phase."""
    calls: Counter[str] = field(default_factory=Counter)
    """Calls of each operator by its name."""
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Waits of the host for the device, by (operator, place in the code)."""
    peak: int = 0
    """Most bytes alive at once."""


class Recorder(TorchDispatchMode):
    """Enter it inside `FakeTensorMode`."""

    active: "Recorder | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        """Where the program is; the caller sets it."""
        self.record = Record()
        self.live = 0
        """Bytes alive on the card."""
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __enter__(self) -> Self:
        Recorder.active = self
        super().__enter__()
        return self

    def take(self) -> Record:
        """Return what was recorded, and begin again."""
        record, self.record = self.record, Record(peak=self.live)
        return record

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "prim":  # asks a tensor for its device
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "empty":
            kwargs.pop("pin_memory", None)  # fake tensors cannot be pinned
        if wait := _wait(name, args, kwargs, inputs):
            self.record.waits[wait, _place()] += 1
        if name == "_local_scalar_dense" and getattr(inputs[0], "constant", 0) is None:
            return _any_number(inputs[0].dtype)
        if name in _SAME_TYPE:
            check_same_type(name, inputs)
        if name == "_varlen_attn":
            check_varlen_call(*args[:7])
        result = func(*args, **kwargs)
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if any(map(_on_card, inputs + outputs)) and not func.is_view and name not in _FREE:
            self.record.operators[self.phase] += 1
            self.record.calls[name] += 1
        for output in outputs:
            self._track(output)
        if name == "logsumexp":  # it computes exp(input - maximum) in memory of its own
            self.record.peak = max(self.record.peak, self.live + _size(inputs[0].nbytes))
        return result

    def _track(self, tensor: Tensor) -> None:
        if not _on_card(tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = _size(storage.nbytes())
        self._storages[key] = weakref.ref(storage, lambda _: self._forget(key, size))
        self.live += size
        self.record.peak = max(self.record.peak, self.live)

    def _forget(self, key: int, size: int) -> None:
        if self._storages.pop(key, None) is not None:
            self.live -= size


def note_wait(name: str) -> None:
    """Record a wait that is no operator."""
    if Recorder.active is not None:
        Recorder.active.record.waits[name, _place()] += 1


def check_same_type(name: str, inputs: list[Tensor]) -> None:
    """Check that all numbers have one type, as the kernel does on a card."""
    dtypes = {tensor.dtype for tensor in inputs if tensor.is_floating_point()}
    assert len(dtypes) <= 1, f"{name} of {', '.join(sorted(map(str, dtypes)))}"


def check_varlen_call(
    query: Tensor, key: Tensor, value: Tensor, begin: Tensor, end: Tensor, longest: Any, other: Any
) -> None:
    """Check what torch's varlen kernel needs; on a card it would fail, or read wrong memory."""
    for heads in (query, key, value):
        assert heads.dtype in (torch.bfloat16, torch.float16), heads.dtype
        assert heads.dtype == query.dtype and heads.shape == query.shape
        assert heads.dim() == 3 and heads.stride(-1) == 1, heads.stride()
        assert heads.size(-1) % 8 == 0 and heads.size(-1) <= 256, heads.shape
    for cumulative in (begin, end):
        assert cumulative.dtype == torch.int32 and cumulative.is_contiguous()
        assert cumulative.device == query.device
    assert type(longest) is int and type(other) is int


def _on_card(tensor: Tensor) -> bool:
    # The attribute of a fake tensor, because `device` is an operator of its own.
    device = tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device
    return bool(device.type == "cuda")


def _size(num_bytes: int) -> int:
    """Bytes that the allocator takes for a tensor of this size."""
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _any_number(dtype: torch.dtype) -> float | int | bool:
    """What the host reads: a finite number, or that nothing has overflowed."""
    if dtype == torch.bool:
        return False
    return 1.0 if dtype.is_floating_point else 0


def _wait(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor]) -> str:
    """Why the host waits in this operator; empty if it does not.

    The rules are those of `torch.cuda.set_sync_debug_mode`. An operator whose number of results
    depends on the numbers, such as `nonzero`, is an error on the fake card.
    """
    if name in ("_local_scalar_dense", "equal") and any(map(_on_card, inputs)):
        return "equal" if name == "equal" else "item"
    if name == "_to_copy" and kwargs.get("device") is not None:
        source, target = args[0].device.type, torch.device(kwargs["device"]).type
        is_async = kwargs.get("non_blocking", False)
    elif name == "copy_":
        target, source = args[0].device.type, args[1].device.type
        is_async = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
    else:
        return ""
    return "" if is_async or source == target else f"copy {source} to {target}"


def _place() -> str:
    """The innermost function of DeepSpeed or of this project, as `file:function`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        for directory, name in _PACKAGES.items():
            place = name + path.removeprefix(directory)
            if path.startswith(directory) and not place.startswith(_NOT_PLACES):
                return f"{place}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "torch"
