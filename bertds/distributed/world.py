"""Rank and world size, read once from the environment and passed on.

    deepspeed, torchrun   RANK, LOCAL_RANK, WORLD_SIZE
    srun                  SLURM_PROCID, SLURM_LOCALID, SLURM_STEP_NUM_TASKS
    mpirun (Open MPI)     OMPI_COMM_WORLD_RANK, …

The first that is set counts, because launchers also run inside one another (`deepspeed` in a Slurm
job). Without any of them there is one process.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Launcher = Literal["deepspeed", "torchrun", "slurm", "openmpi", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes of a run."""

    rank: int = 0
    """The rank of this process, from 0."""
    local_rank: int = 0
    """Its rank among the processes of its host."""
    local_size: int = 1
    """Processes of this host."""
    world_size: int = 1
    """Processes of the job."""
    launcher: Launcher = "none"
    """What started this process; `none`: a user, even one who set the variables by hand."""

    @classmethod
    def detect(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """The world that the launcher's environment describes.

        Raises:
            ValueError: A variable is not a number, or they contradict one another.
        """
        if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & environment.keys():
            # Not SLURM_NTASKS: a batch script has it too, and is not a task of a job step.
            if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= environment.keys():
                return _of_slurm(environment)
            if "OMPI_COMM_WORLD_SIZE" in environment:
                return _of_openmpi(environment)
        return _of_deepspeed_or_torchrun(environment)

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, which writes and prints."""
        return self.rank == 0


def _of_deepspeed_or_torchrun(environment: Mapping[str, str]) -> World:
    size = _number(environment, "1", "WORLD_SIZE")
    rank = _number(environment, "0", "RANK")
    if rank >= size:
        raise ValueError(
            f"the environment has RANK={rank} and WORLD_SIZE={size}: start with `deepspeed`, "
            "`torchrun`, `srun` or `mpirun`, or neither variable set"
        )
    launcher: Launcher = "none"
    if "TORCHELASTIC_RUN_ID" in environment:
        launcher = "torchrun"
    elif "CROSS_SIZE" in environment:
        launcher = "deepspeed"
    return World(
        rank=rank,
        local_rank=_number(environment, "0", "LOCAL_RANK"),
        # deepspeed sets LOCAL_SIZE, torchrun LOCAL_WORLD_SIZE
        local_size=_number(environment, str(size), "LOCAL_SIZE", "LOCAL_WORLD_SIZE"),
        world_size=size,
        launcher=launcher,
    )


def _of_slurm(environment: Mapping[str, str]) -> World:
    size = _number(environment, "1", "SLURM_STEP_NUM_TASKS")
    counts = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    node = _number(environment, "0", "SLURM_NODEID")
    if node >= len(counts) or sum(counts) != size:
        raise ValueError(
            f"the environment has SLURM_NODEID={node} and {size} tasks, but "
            f"SLURM_STEP_TASKS_PER_NODE counts {counts}: start with `srun`"
        )
    return World(
        rank=_number(environment, "0", "SLURM_PROCID"),
        local_rank=_number(environment, "0", "SLURM_LOCALID"),
        local_size=counts[node],
        world_size=size,
        launcher="slurm",
    )


def _tasks_per_node(text: str) -> list[int]:
    """Slurm's `2(x3),1` as [2, 2, 2, 1]."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    counts = [(int(part[1]), int(part[2] or 1)) for part in parts if part]
    if len(counts) < len(parts):
        raise ValueError(
            f"the environment variable SLURM_STEP_TASKS_PER_NODE is {text!r}, expected counts "
            "such as 2(x3),1: start with `srun`"
        )
    return [count for count, repeats in counts for _ in range(repeats)]


def _of_openmpi(environment: Mapping[str, str]) -> World:
    size = _number(environment, "1", "OMPI_COMM_WORLD_SIZE")
    return World(
        rank=_number(environment, "0", "OMPI_COMM_WORLD_RANK"),
        local_rank=_number(environment, "0", "OMPI_COMM_WORLD_LOCAL_RANK"),
        local_size=_number(environment, str(size), "OMPI_COMM_WORLD_LOCAL_SIZE"),
        world_size=size,
        launcher="openmpi",
    )


def _number(environment: Mapping[str, str], default: str, *names: str) -> int:
    """The first of these variables that is set."""
    name = next((name for name in names if name in environment), names[0])
    text = environment.get(name, default)
    if not text.isdecimal():
        raise ValueError(f"the environment variable {name} is {text!r}, expected a number from 0")
    return int(text)
