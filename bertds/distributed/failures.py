"""What torch, gloo, NCCL and DeepSpeed say when something fails, in one sentence for the user."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.cpp_extension import get_default_build_root

from bertds.distributed.world import World
from bertds.errors import NonFiniteError, OutOfMemoryError, PeerLostError, PortError

_COMPILING_S = 600.0


@contextlib.contextmanager
def translate_peer_errors(world: World) -> Iterator[None]:
    """Around all that speaks to other processes, DeepSpeed's doings included.

    Raises:
        PeerLostError: The process group failed.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo has no class of its own, but names its source file.
        if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
            raise
        raise PeerLostError(
            f"process {world.rank} on {socket.gethostname()} lost touch with another one "
            f"({_what_happened(error)}): a process has ended or hangs, or a host is gone; the "
            "output of the others says why; run the same command again to go on"
        ) from error


@contextlib.contextmanager
def translate_rendezvous_errors(world: World, address: str, timeout_s: float) -> Iterator[None]:
    """Around the first meeting of all processes.

    Args:
        world: This process.
        address: Where they meet, host:port.
        timeout_s: For how long they wait.

    Raises:
        PortError: Something else listens there.
        PeerLostError: Not all came.
    """
    try:
        yield
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise PortError(
                f"the port of {address}, where the processes meet, is in use, by another job "
                "perhaps: give this one another, `deepspeed --master_port 29501 …`"
            ) from error
        raise PeerLostError(
            f"process {world.rank} on {socket.gethostname()} waited {timeout_s:.0f} s at {address} "
            f"for {world.world_size} processes to meet ({_what_happened(error)}): one did not "
            "start, or cannot reach that address; the output of the others says more"
        ) from error


@contextlib.contextmanager
def translate_step_errors(world: World, micro_batch_size: int) -> Iterator[None]:
    """Around the computation of a step.

    Raises:
        NonFiniteError: The loss scale of fp16 cannot fall any further.
        OutOfMemoryError: This process has no memory left.
    """
    try:
        yield
    except Exception as error:
        if "loss scale already at minimum" in str(error):
            raise NonFiniteError(
                "gradients overflow in fp16 even at the least loss scale, fp16.min_loss_scale: "
                "lower optimizer.params.lr, set gradient_clipping, or use bf16; the last "
                "checkpoint is good"
            ) from error
        if not _is_full_memory(error):
            raise
        raise OutOfMemoryError(
            f"process {world.rank} on {socket.gethostname()} ran out of memory in a micro-step of "
            f"{micro_batch_size} sequences ({_what_happened(error)}): set run.max_micro_batch_size "
            "below that (accumulation makes up for it), model.gradient_checkpointing to true, or a "
            "higher zero_optimization.stage"
        ) from error


def abandoned_compilations(root: Path | None = None) -> list[str]:
    """A sentence for each lock on a compilation of DeepSpeed's kernels that nobody seems to finish.

    A process that is killed while it compiles leaves its lock, and every later start waits for it.

    Args:
        root: Where they are compiled; torch's own place if not given.
    """
    place = Path(get_default_build_root()) if root is None else root
    found = []
    for lock in sorted([*place.glob("*/lock"), *place.glob("*/*/lock")]):
        with contextlib.suppress(FileNotFoundError):  # finished this moment
            age_s = time.time() - lock.stat().st_mtime
            if age_s > _COMPILING_S:
                found.append(
                    f"{lock} is {age_s / 60:.0f} minutes old, and whoever needs that kernel waits "
                    "for it: if no process is compiling, delete it"
                )
    return found


def _is_full_memory(error: Exception) -> bool:
    """By its class, or in the words of the CPU's allocator, CUDA, cuBLAS or NCCL."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _what_happened(error: Exception) -> str:
    """The first line, without the place in torch's sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (lines[0].partition("] ")[2] or lines[0]).rstrip(".")
