import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from bertds.distributed.world import World


def test_without_a_launcher_the_world_has_one_rank():
    world = World.detect({})
    assert world == World()
    assert world.is_main
    assert (world.rank, world.local_rank, world.local_size, world.world_size) == (0, 0, 1, 1)


def test_deepspeed_on_the_second_of_two_hosts():
    environment = {"RANK": "5", "LOCAL_RANK": "1", "LOCAL_SIZE": "4", "WORLD_SIZE": "8"}
    world = World.detect(environment)
    assert world == World(rank=5, local_rank=1, local_size=4, world_size=8)
    assert not world.is_main
    assert World.detect({**environment, "CROSS_SIZE": "2"}).launcher == "deepspeed"


def test_torchrun():
    environment = {"RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
    assert World.detect(environment).local_size == 2
    assert World.detect({**environment, "TORCHELASTIC_RUN_ID": "none"}).launcher == "torchrun"


STEP = {
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}


def test_a_slurm_task():
    expected = World(rank=4, local_rank=0, local_size=1, world_size=5, launcher="slurm")
    assert World.detect(STEP) == expected
    assert World.detect({**STEP, "SLURM_PROCID": "3", "SLURM_NODEID": "1"}).local_size == 2


def test_a_slurm_batch_script_is_not_a_task():
    """It has SLURM_PROCID and SLURM_NTASKS, too."""
    assert World.detect({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == World()


def test_a_launcher_inside_a_slurm_step_wins():
    deepspeed = {"RANK": "1", "WORLD_SIZE": "2", "CROSS_SIZE": "1"}
    assert World.detect({**STEP, **deepspeed}).world_size == 2


def test_open_mpi():
    environment = {
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }
    expected = World(rank=3, local_rank=1, local_size=2, world_size=4, launcher="openmpi")
    assert World.detect(environment) == expected


def test_all_ranks_are_on_one_host_by_default():
    assert World.detect({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}).local_size == 2


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2"),
        ({"RANK": "1"}, "RANK=1 and WORLD_SIZE=1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK is ''"),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x2"}, "SLURM_STEP_TASKS_PER_NODE is '2"),
        ({**STEP, "SLURM_NODEID": "3"}, "SLURM_NODEID=3 and 5 tasks"),
    ],
)
def test_a_contradictory_environment_is_rejected(environment, named):
    with pytest.raises(ValueError, match=named) as refused:
        World.detect(environment)
    assert "\n" not in str(refused.value)


def test_a_world_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        World().rank = 1  # type: ignore[misc]


def test_detect_reads_the_environment():
    program = "from bertds.distributed.world import World; print(World.detect().rank)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"RANK": "1", "WORLD_SIZE": "3"},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout.strip() == "1"
