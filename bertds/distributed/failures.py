"""Turns the errors of torch, gloo, NCCL and DeepSpeed into one message for the user."""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.cpp_extension import get_default_build_root

from bertds.distributed.world import World
from bertds.errors import ConfigError, NonFiniteError, OutOfMemoryError, PeerLostError, PortError

_COMPILING_S = 600.0


@contextlib.contextmanager
def translate_peer_errors(world: World) -> Iterator[None]:
    """Put this around all communication between ranks, including DeepSpeed's.

    Raises:
        PeerLostError: The process group failed.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no class of their own, but name gloo's source file.
        if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
            raise
        raise PeerLostError(
            f"rank {world.rank} on {socket.gethostname()} lost the connection to another rank "
            f"({_first_line(error)}): a rank failed or hangs, or a host is down; the output of the "
            "other ranks names the cause; run the same command again to resume"
        ) from error


@contextlib.contextmanager
def translate_rendezvous_errors(world: World, address: str, timeout_s: float) -> Iterator[None]:
    """Put this around the rendezvous of all ranks.

    Args:
        world: This process.
        address: The rendezvous address, host:port.
        timeout_s: How long the ranks wait for one another.

    Raises:
        PortError: Another program listens on the port.
        PeerLostError: Not all ranks joined in time.
    """
    try:
        yield
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise PortError(
                f"the rendezvous port {address} is in use, possibly by another job: give this job "
                "another one, `deepspeed --master_port 29501 …`"
            ) from error
        raise PeerLostError(
            f"rank {world.rank} on {socket.gethostname()} waited {timeout_s:.0f} s at {address} for "
            f"{world.world_size} ranks ({_first_line(error)}): a rank did not start, or cannot reach "
            "that address; see the output of the other ranks"
        ) from error


@contextlib.contextmanager
def translate_step_errors(world: World, micro_batch_size: int) -> Iterator[None]:
    """Put this around the computation of a step.

    Raises:
        NonFiniteError: The loss scale of fp16 is at its minimum and gradients still overflow.
        OutOfMemoryError: This process has no memory left.
        ConfigError: torch cannot compile the model on this machine.
    """
    try:
        yield
    except Exception as error:
        if _is_compilation_error(error):
            cause = getattr(error, "inner_exception", error)  # the backend's own error
            raise ConfigError(
                "run.compile is true, but torch.compile fails on "
                f"{socket.gethostname()} ({_first_line(cause)}): install what it needs there (a C++ "
                "compiler, Python's headers and, for a GPU, Triton), or set run.compile to false"
            ) from error
        if "loss scale already at minimum" in str(error):
            raise NonFiniteError(
                "gradients overflow in fp16 at the minimum loss scale, fp16.min_loss_scale: lower "
                "optimizer.params.lr, set gradient_clipping, or use bf16; the last checkpoint is good"
            ) from error
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"rank {world.rank} on {socket.gethostname()} ran out of memory in a micro-step of "
            f"{micro_batch_size} sequences ({_first_line(error)}): lower run.max_micro_batch_size "
            "(accumulation compensates), set model.gradient_checkpointing to true, or raise "
            "zero_optimization.stage"
        ) from error


def abandoned_compilations(root: Path | None = None) -> list[str]:
    """A warning for each stale lock of a DeepSpeed kernel compilation.

    A process that is killed while it compiles leaves its lock, and every later start waits for it.

    Args:
        root: Where kernels are compiled; torch's default directory if not given.
    """
    directory = Path(get_default_build_root()) if root is None else root
    warnings = []
    for lock in sorted([*directory.glob("*/lock"), *directory.glob("*/*/lock")]):
        with contextlib.suppress(FileNotFoundError):  # the compilation has just finished
            age_s = time.time() - lock.stat().st_mtime
            if age_s > _COMPILING_S:
                warnings.append(
                    f"{lock} is {age_s / 60:.0f} minutes old, and every process that needs this "
                    "kernel waits for it: if no process is compiling, delete it"
                )
    return warnings


def _is_out_of_memory(error: Exception) -> bool:
    """By its class, or by the words of the CPU allocator, CUDA, cuBLAS or NCCL."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _is_compilation_error(error: Exception) -> bool:
    module = sys.modules.get("torch._dynamo.exc")  # loaded by the first compilation, in seconds
    return module is not None and isinstance(error, module.TorchDynamoException)


def _first_line(error: Exception) -> str:
    """The first line of a message, without the position in torch's sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (lines[0].partition("] ")[2] or lines[0]).rstrip(".")
