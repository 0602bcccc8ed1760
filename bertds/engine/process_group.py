"""The process group: how a rank joins and leaves it, and its collectives of objects."""

import atexit
import datetime
import gc
import logging
import os
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # later, its defaults would hold the group for ever

from bertds.distributed.failures import translate_rendezvous_errors
from bertds.distributed.rendezvous import rendezvous
from bertds.distributed.watchdog import Watchdog
from bertds.distributed.world import World
from bertds.engine.deepspeed_compat import use_gloo_collectives

Value = TypeVar("Value")


def init_process_group(world: World, timeout_s: float) -> torch.device:
    """Join the process group; on CPU the cores are divided among the machine's processes.

    Args:
        world: This process.
        timeout_s: Seconds after which a collective fails.

    Returns:
        The device to compute on.

    Raises:
        PortError: The port to meet at is taken.
        PeerLostError: Not all processes came.
    """
    on_gpu = torch.cuda.is_available()
    place = rendezvous(world)
    if on_gpu and torch.cuda.device_count() == 1:
        place["LOCAL_RANK"] = "0"  # srun --gpus-per-task shows each process its own card only
    device = torch.device("cuda", int(place["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        # Before the first matrix product: run.deterministic needs it, and it costs nothing else.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)
    else:
        _prepare_cpu(world)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    os.environ.update(place)
    address = "{MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ)
    # The meeting's own time-out does not hold where the other side is there and does not answer.
    watchdog = Watchdog(world, timeout_s, lambda _: None)
    with watchdog as dog, translate_rendezvous_errors(world, address, timeout_s):
        dog.heartbeat(f"meeting the others at {address}")
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo",
            auto_mpi_discovery=False,
            timeout=datetime.timedelta(seconds=timeout_s),
            verbose=False,
        )
    return device


def _prepare_cpu(world: World) -> None:
    use_gloo_collectives()
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(max(1, cores // world.local_size))


def all_gather_object(value: Value) -> list[Value]:
    """The values of all processes by rank, in all; all must call it."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def destroy_process_group() -> None:
    """Leave the process group, all processes together."""
    dist.barrier()
    _leave()


def destroy_process_group_at_exit() -> None:
    """Leave the process group when the interpreter ends, for programs that may train once more.

    Only where all went well: a group with a lost process may hang on leaving it.
    """
    atexit.register(_leave)


def _leave() -> None:
    """Leave the group and end gloo's threads.

    A thread of gloo's that lets go of a tensor while the interpreter ends aborts the process
    (pytorch/pytorch#38228), and a group's threads end with the last reference to the group:
    `torch.distributed` drops its own, DeepSpeed's function DeepSpeed's, `gc` those of engines.
    """
    if dist.is_initialized():
        deepspeed.comm.destroy_process_group()
        gc.collect()
