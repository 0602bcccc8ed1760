"""Part: what the machine has, whether the project can be imported, and what the device can do.

python -m benchmarks.gpu_once.part_machine versions|peak DEVICE
"""

import importlib
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.gpu_once.worker import report
from bertds.metrics.device import allow_tf32, device_name, measured_flops
from bertds.metrics.timing import StepTimer

PACKAGES = ("torch", "deepspeed", "triton", "numpy", "tokenizers", "transformers", "flash_attn")
MODULES = ("bertds.training.session", "bertds.inference.evaluate", "data_prep.sharding.pipeline")
COPIED = 1 << 30  # bytes
REPEATS = 5


def find_versions(device: torch.device) -> dict[str, Any]:
    """Import the project; return its seconds, and the versions of what it runs on."""
    begin = time.perf_counter()
    for module in MODULES:
        importlib.import_module(module)
    found: dict[str, Any] = {
        "device": device_name(device),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "import_seconds": round(time.perf_counter() - begin, 1),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gib"] = round(properties.total_memory / 2**30, 1)
        found["capability"] = f"{properties.major}.{properties.minor}"
    return found


def measure_peaks(device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """Return the FLOP/s of matrix products per precision, and the bytes/s that a copy moves."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    flops = {name: measured_flops(device, dtype) for name, dtype in dtypes.items()}
    if device.type == "cuda":
        allow_tf32(device, allowed=True)
        flops["tf32"] = measured_flops(device, torch.float32)
    return {"flops": flops, "bytes_per_second": _bandwidth(device, COPIED >> (6 if tiny else 0))}


def _bandwidth(device: torch.device, size: int) -> float:
    """Bytes read and written per second by the fastest of a few copies."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source).copy_(source)
    timer, times = StepTimer(device), []
    for _ in range(REPEATS):
        timer.start()
        target.copy_(source)
        timer.mark("copy")
        times.append(timer.seconds()["copy"])
    return 2 * size / min(times)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Run the part that the arguments name."""
    part, device = sys.argv[1], torch.device(sys.argv[2])
    if part == "versions":
        report(find_versions(device))
    else:
        report(measure_peaks(device, tiny="--tiny" in sys.argv))


if __name__ == "__main__":
    main()
