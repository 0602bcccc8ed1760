"""The device: its name, peak memory, matrix products in TF32, and their measured FLOP/s."""

import resource
import sys

import torch

from bertds.metrics.timing import StepTimer

_REPEATS = 3  # per matrix size; the fastest counts
_MAX_SECONDS = 0.5  # expected time of all repeats at the largest size


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory of this process so far, in 10^9 bytes: on the GPU, or for a CPU in total."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def allow_tf32(device: torch.device, *, allowed: bool) -> None:
    """Choose how this process multiplies fp32 matrices on a GPU: in TF32, or in full precision."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if allowed else "highest")


def measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The highest FLOP/s of a few matrix products in this process: the peak for MFU.

    The numbers are random: a GPU that multiplies ones or zeros draws less power and clocks higher,
    a rate that no training reaches. The matrices grow as long as the measurement takes less than a second in total. On a GPU, a
    small product takes as long as its kernel launch. A CPU without bf16 instructions needs seconds
    for a large one.
    """
    sides = [2**power for power in range(8, 14 if device.type == "cuda" else 11)]
    rate = 0.0
    for side in sides:
        operations = 2 * side**3
        if rate and _REPEATS * operations / rate > _MAX_SECONDS:
            break
        rate = max(rate, operations / min(_product_times(device, dtype, side)))
    return rate


def _product_times(device: torch.device, dtype: torch.dtype, side: int) -> list[float]:
    """Seconds of each product of two square matrices, after one as warm-up."""
    # A generator of its own, so that the random numbers of the run stay the same.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2)
    )
    left @ right
    timer = StepTimer(device)
    times = []
    for _ in range(_REPEATS):
        timer.start()
        left @ right
        timer.mark("product")
        times.append(timer.seconds()["product"])
    return times


def device_name(device: torch.device) -> str:
    """The GPU's name as the driver reports it, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
