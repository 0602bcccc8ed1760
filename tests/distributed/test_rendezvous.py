"""All ranks derive one rendezvous address and port."""

import pytest

from bertds.distributed.rendezvous import first_host, rendezvous
from bertds.distributed.world import World

SLURM = {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[03-04]"}
TWO_HOSTS = World(rank=3, local_rank=1, local_size=2, world_size=4, launcher="slurm")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("one", "one"),
        ("one,two", "one"),
        ("node[0-1]", "node0"),
        ("rack[07-12,20],login", "rack07"),
        ("r[1-2]n[3,5]-ib,x", "r1n3-ib"),
    ],
)
def test_first_host_of_a_slurm_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_ranks_of_a_slurm_step_derive_one_address() -> None:
    worlds = [World(rank=r, local_size=2, world_size=4, launcher="slurm") for r in range(4)]
    addresses = {
        (each["MASTER_ADDR"], each["MASTER_PORT"])
        for each in (rendezvous(world, SLURM) for world in worlds)
    }
    assert len(addresses) == 1
    assert addresses.pop()[0] == "gpu03"
    assert rendezvous(TWO_HOSTS, SLURM)["RANK"] == "3"


def test_job_steps_and_array_tasks_have_different_ports() -> None:
    ports = {
        rendezvous(TWO_HOSTS, {**SLURM, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})[
            "MASTER_PORT"
        ]
        for job in range(70, 75)
        for step in range(2)
    }
    assert len(ports) == 10
    assert all(15_000 <= int(port) < 30_000 for port in ports)


def test_variables_that_are_set_are_kept() -> None:
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4321"}
    found = rendezvous(TWO_HOSTS, {**SLURM, **given})
    assert {name: found[name] for name in given} == given


def test_an_underivable_address_or_port_is_rejected() -> None:
    world = World(rank=1, local_size=1, world_size=2, launcher="openmpi")
    with pytest.raises(ValueError, match="MASTER_ADDR is not set"):
        rendezvous(world, {})
    with pytest.raises(ValueError, match="MASTER_PORT is not set"):
        rendezvous(world, {"MASTER_ADDR": "h0"})
