"""A CUDA device that computes nothing, in a build of torch that may be for CPUs only.

Import this module before torch, in a process of its own: it changes torch for good. Tensors exist
only under `FakeTensorMode`: they have shapes, types and a device, but no numbers. Operators check
their arguments as on a GPU. `Recorder` in `recorder.py` counts operators, memory and waits.
"""

from tests.fake_cuda.preload import LIBRARY  # isort: skip - before torch

import contextlib
import gc
from collections import defaultdict
from typing import Any, Self

import torch
import torch._dynamo  # imported later, it would ask the patched functions about a real card
import torch.cuda.nvtx
import torch.distributed as dist
from torch._subclasses import fake_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.fake_cuda.recorder import note_wait

NAME, CAPABILITY, BYTES = "NVIDIA H200", (9, 0), 141 << 30


class _Properties:
    name = NAME
    major, minor = CAPABILITY
    total_memory = BYTES
    multi_processor_count = 132


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def wait(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        note_wait("Event.synchronize")

    def elapsed_time(self, _: Any) -> float:
        return 1.0


class _Stream:
    device, device_index = torch.device("cuda", 0), 0
    stream_id = cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, _: Any) -> None: ...

    def wait_event(self, _: Any) -> None: ...

    def record_event(self, *_: Any) -> _Event:
        return _Event()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        note_wait("Stream.synchronize")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


class _Within(contextlib.nullcontext[None]):
    def __init__(self, *_: Any) -> None:
        super().__init__()


_STREAM = _Stream()
_CUDA: dict[str, Any] = {
    "Event": _Event,
    "Stream": _Stream,
    "device": _Within,
    "stream": _Within,
    "synchronize": lambda *_: note_wait("torch.cuda.synchronize"),
    "is_current_stream_capturing": lambda: False,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "current_stream": lambda *_: _STREAM,
    "default_stream": lambda *_: _STREAM,
    "get_device_properties": lambda *_: _Properties,
    "get_device_name": lambda *_: NAME,
    "get_device_capability": lambda *_: CAPABILITY,
    "mem_get_info": lambda *_: (BYTES, BYTES),
    "memory_stats": lambda *_: defaultdict(int),
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8, device="cpu"),
    **dict.fromkeys(
        ("is_available", "is_initialized", "_is_compiled", "is_bf16_supported"),
        lambda *_, **__: True,
    ),
    **dict.fromkeys(
        (
            "memory_allocated",
            "max_memory_allocated",
            "memory_reserved",
            "max_memory_reserved",
            "memory_cached",
            "max_memory_cached",
        ),
        lambda *_: 0,
    ),
    **dict.fromkeys(
        (
            "_lazy_init",
            "init",
            "set_device",
            "set_stream",
            "manual_seed",
            "manual_seed_all",
            "set_rng_state",
            "empty_cache",
            "ipc_collect",
            "reset_peak_memory_stats",
            "reset_max_memory_allocated",
            "reset_max_memory_cached",
        ),
        lambda *_: None,
    ),
}


def use_fake_card(world_size: int = 1) -> None:
    """Make torch of this process see one card, on which collectives of other ranks do nothing.

    Args:
        world_size: Number of ranks of the process group; this process is rank 0.
    """
    LIBRARY.use_fake_card()
    for name, value in _CUDA.items():
        setattr(torch.cuda, name, value)
    for name in ("range_push", "range_pop", "mark"):
        setattr(torch.cuda.nvtx, name, lambda *_: 0)
    fake_tensor.FakeTensorMode.avoid_device_init = True
    fake_tensor.init_gpu_context = lambda _: None  # it would ask the driver for memory
    # A fake tensor has no memory to pin, and no allocator that a stream could tell of its use.
    tensor: Any = torch.Tensor
    tensor.pin_memory = lambda self, *_, **__: self
    tensor.is_pinned = lambda *_, **__: True
    tensor.record_stream = lambda *_: None
    module: Any = torch.nn.Module
    module._apply = _convert_in_place
    init = dist.init_process_group

    def init_fake(*_: Any, **__: Any) -> Any:
        return init("fake", store=FakeStore(), rank=0, world_size=world_size)

    dist.init_process_group = init_fake
    gc.freeze()  # every engine collects garbage when it is closed, which needs no look at modules


def _convert_in_place(module: Any, convert: Any, recurse: bool = True) -> Any:
    """`Module._apply` for fake parameters, which torch cannot swap: an optimizer may know them."""
    for part in module.modules() if recurse else [module]:
        with torch.no_grad():
            for parameter in filter(None.__ne__, part._parameters.values()):
                parameter.data = convert(parameter)
        buffers = {name: buffer for name, buffer in part._buffers.items() if buffer is not None}
        part._buffers.update({name: convert(buffer) for name, buffer in buffers.items()})
    return module
