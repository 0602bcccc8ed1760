"""The rendezvous of a job: its address and port, for every launcher."""

import os
import re
import socket
import zlib
from collections.abc import Mapping

from bertds.distributed.world import World

# Below Linux's ephemeral ports (32768-60999).
_FIRST_PORT, _NUM_PORTS = 15_000, 15_000


def rendezvous(world: World, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Complete the environment variables by which torch finds the other ranks.

    Args:
        world: This process.
        environment: As the launcher set it; MASTER_ADDR and MASTER_PORT are kept if set.

    Raises:
        ValueError: There are several ranks, and no address or port can be derived.
    """
    return {
        "RANK": str(world.rank),
        "LOCAL_RANK": str(world.local_rank),
        "WORLD_SIZE": str(world.world_size),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or _address(world, environment),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_port(world, environment)),
    }


def _address(world: World, environment: Mapping[str, str]) -> str:
    """The host of rank 0."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if world.launcher == "slurm" and nodes:
        return first_host(nodes)
    if world.local_size < world.world_size:
        raise ValueError(
            f"MASTER_ADDR is not set, and {world.world_size} ranks on several hosts need it: "
            "set it to the address of the first host"
        )
    return "127.0.0.1"


def _port(world: World, environment: Mapping[str, str]) -> int:
    """A port that all ranks derive from the job id alone; a free port if there is one rank."""
    if world.world_size == 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
    job = [environment[name] for name in names if name in environment]
    if not job:
        raise ValueError(
            f"MASTER_PORT is not set, and {world.world_size} ranks need it for their rendezvous: set "
            "it to a free port of the first host"
        )
    return _FIRST_PORT + zlib.crc32(" ".join(job).encode()) % _NUM_PORTS


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: rack07 for `rack[07-12,20],login`.

    Args:
        nodes: As in SLURM_JOB_NODELIST.
    """
    head = re.match(r"[^,\[]*(?:\[[^\]]*\][^,\[]*)*", nodes)
    assert head is not None  # the pattern matches the empty text
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", head[0])
