"""The device: its name, peak memory and measured matrix-product rate."""

import resource
import sys

import torch

from bertds.metrics.timing import StepTimer

_PRODUCTS = 3  # of a size, whose fastest counts
_MEASURING_S = 0.5  # what those of the largest size are expected to take at most


def peak_memory_gb(device: torch.device) -> float:
    """The most that this process has held so far: of the device's memory, or (CPU) in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Matrix products' FLOP/s of this process, the best of a few: a peak for MFU.

    The matrices grow as long as it takes less than a second in all: on a GPU a small product
    takes as long as its launch, and a CPU without instructions for bf16 needs seconds for a large one.
    """
    sides = [2**power for power in range(8, 14 if device.type == "cuda" else 11)]
    rate = 0.0
    for side in sides:
        operations = 2 * side**3
        if rate and _PRODUCTS * operations / rate > _MEASURING_S:
            break
        rate = max(rate, operations / min(_product_times(device, dtype, side)))
    return rate


def _product_times(device: torch.device, dtype: torch.dtype, side: int) -> list[float]:
    """Seconds of some products of square matrices, after one that prepares the kernel."""
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    clock = StepTimer(device)
    times = []
    for _ in range(_PRODUCTS):
        clock.start()
        left @ right
        clock.mark("product")
        times.append(clock.seconds()["product"])
    return times


def device_name(device: torch.device) -> str:
    """What the driver calls it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
