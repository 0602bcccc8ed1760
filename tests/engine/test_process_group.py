"""The process group: no shared memory is left behind, and every group has the run's timeout."""

import datetime
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from bertds.engine.process_group import all_gather_object, broadcast_object, gather_object
from tests.engine.test_engine import build, case_of


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_no_shared_memory_is_left_behind(device: torch.device, tmp_path: Path) -> None:
    """DeepSpeed's buffers are named after the rendezvous port."""
    engine, _ = build(case_of(tmp_path), device)
    engine.close()
    port = os.environ["MASTER_PORT"]
    assert not [path for path in Path("/dev/shm").glob("deepspeed_*") if port in path.name]
    assert sys.modules["deepspeed.comm.torch"].build_shm_op() is None


def test_every_group_has_the_timeout_of_the_run(device: torch.device, tmp_path: Path) -> None:
    """DeepSpeed makes groups of its own, with torch's default of 30 minutes."""
    engine, _ = build(case_of(tmp_path, "run.collective_timeout_s=321"), device)
    engine.close()
    groups = list(dist.distributed_c10d._world.pg_map)
    assert groups
    for group in groups:
        timeout = group._get_backend(torch.device("cpu")).options._timeout
        assert timeout == datetime.timedelta(seconds=321)


def test_objects_of_one_rank(device: torch.device) -> None:
    assert device.type == "cpu"
    assert all_gather_object({"a": 1}) == [{"a": 1}]
    assert gather_object("x") == ["x"]
    assert broadcast_object(("y", 2)) == ("y", 2)
