"""A Chrome trace of a few steps (`--profile`): open it in chrome://tracing or ui.perfetto.dev."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from bertds.engine.deepspeed_compat import record_nvtx_ranges

SKIPPED, WARM_UP, TRACED = 3, 1, 3  # steps
NAME = "trace.json"


@contextlib.contextmanager
def traced(run_dir: Path) -> Iterator[Callable[[], None]]:
    """Trace steps 5 to 7 of this start into the run's directory.

    Args:
        run_dir: An existing directory; an older trace is replaced.

    Yields:
        What is to be called after each step.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(
        activities=activities,
        schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=TRACED, repeat=1),
        on_trace_ready=lambda made: made.export_chrome_trace(str(run_dir / NAME)),
    ) as profiler:
        record_nvtx_ranges(True)
        try:
            yield profiler.step
        finally:
            record_nvtx_ranges(False)


@contextlib.contextmanager
def untraced() -> Iterator[Callable[[], None]]:
    """Steps as they are."""
    yield lambda: None
