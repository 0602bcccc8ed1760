"""The process group: how a rank joins and leaves it, and collectives of Python objects."""

import atexit
import datetime
import gc
import logging
import os
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # imported later, its default arguments would keep the group

from bertds.distributed.failures import translate_rendezvous_errors
from bertds.distributed.rendezvous import rendezvous
from bertds.distributed.watchdog import Watchdog
from bertds.distributed.world import World
from bertds.engine.deepspeed_compat import use_gloo_collectives

Value = TypeVar("Value")


def init_process_group(world: World, timeout_s: float) -> torch.device:
    """Join the process group; on CPU, divide the cores among the processes of the host.

    Args:
        world: This process.
        timeout_s: Seconds after which a collective fails.

    Returns:
        The device to compute on.

    Raises:
        PortError: The rendezvous port is taken.
        PeerLostError: Not all ranks joined in time.
    """
    on_gpu = torch.cuda.is_available()
    variables = rendezvous(world)
    if on_gpu and torch.cuda.device_count() == 1:
        variables["LOCAL_RANK"] = "0"  # `srun --gpus-per-task` shows each rank its own card only
    if on_gpu:
        device = torch.device("cuda", int(variables["LOCAL_RANK"]))
        # Before the first matrix product: run.deterministic needs it, and it is free otherwise.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        use_gloo_collectives()
        if "OMP_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            torch.set_num_threads(max(1, cores // world.local_size))
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    os.environ.update(variables)
    address = "{MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ)
    # The timeout of the rendezvous does not fire if the other side accepts and never answers.
    watchdog = Watchdog(world, timeout_s, lambda _: None)
    with watchdog, translate_rendezvous_errors(world, address, timeout_s):
        watchdog.heartbeat(f"waiting for all ranks at {address}")
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo",
            auto_mpi_discovery=False,
            timeout=datetime.timedelta(seconds=timeout_s),
            verbose=False,
        )
    return device


def destroy_process_group() -> None:
    """Leave the process group; all ranks must call it."""
    dist.barrier()
    _leave()


def destroy_process_group_at_exit() -> None:
    """Leave the process group when the interpreter exits, for programs that may train again.

    Only after a success: leaving a group that has lost a rank may hang.
    """
    atexit.register(_leave)


def _leave() -> None:
    """Leave the group and end gloo's threads.

    A gloo thread that releases a tensor while the interpreter exits aborts the process
    (pytorch/pytorch#38228). The threads of a group end with the last reference to it:
    `torch.distributed` drops its own, DeepSpeed's function drops DeepSpeed's, and the garbage
    collector drops those of engines.
    """
    if dist.is_initialized():
        deepspeed.comm.destroy_process_group()
        gc.collect()


def all_gather_object(value: Value) -> list[Value]:
    """The values of all ranks, on all ranks; all must call it."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_object(value: Value) -> list[Value]:
    """The values of all ranks, on rank 0; an empty list elsewhere; all must call it."""
    is_main = dist.get_rank() == 0
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.gather_object(value, gathered if is_main else None)
    return gathered if is_main else []


def broadcast_object(value: Value) -> Value:
    """The value of rank 0, on all ranks; all must call it."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]
