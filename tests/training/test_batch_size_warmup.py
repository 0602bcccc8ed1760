"""Runs whose batch size grows: exact on resume, and the same for every split of the batch."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertds.checkpoint.directory import checkpoint_path, list_checkpoints
from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.errors import ConfigError
from bertds.io.json_files import read_json
from bertds.runs.status import write_status
from bertds.training.setup import prepare_run
from tests.helpers.in_process_training import BASE, train_here
from tests.helpers.launching import assert_trained_alike, figures_of, lines_of, run
from tests.helpers.weights import read_weights

WARMUP = 'run.batch_size_warmup={"from_size":8,"num_steps":7}'
"""7 steps of 8, 16 and 24 sequences, then 32."""
SIZES = [8, 8, 8, 16, 16, 24, 24, 32, 32, 32, 32, 32]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_killed_in_the_warmup_resumes_bit_exactly(
    stage: int, data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    settings = (
        f"{WARMUP},zero_optimization.stage={stage},run.max_micro_batch_size=8,run.keep_last=9"
    )
    assert train_here(data_root, tmp_path / "whole", device, settings) == 0
    whole, half = (tmp_path / name / "case" / "main" for name in ("whole", "half"))
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    for path in list_checkpoints(half):
        if path.name > checkpoint_path(half, 4).name:
            shutil.rmtree(path)
    write_status(half, "running", 75, "training", 4)
    assert train_here(data_root, tmp_path / "half", device, settings) == 0
    assert figures_of(half) == figures_of(whole)
    ours, reference = (read_weights(list_checkpoints(each)[0]) for each in (half, whole))
    assert all(ours[name].equal(reference[name]) for name in reference)
    lines = [line for line in lines_of(whole) if "loss/train" in line]
    assert [line["batch_size"] for line in lines] == SIZES
    assert [line["sequences"] for line in lines] == [sum(SIZES[: n + 1]) for n in range(12)]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_accumulation_follows_the_batch_size(
    stage: int, data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """One to four micro-batches a step train as one micro-batch does."""
    settings = f"{WARMUP},zero_optimization.stage={stage},model.hidden_dropout_prob=0"
    for name, micro in (("four", 8), ("one", 32)):
        given = f"{settings},run.max_micro_batch_size={micro}"
        assert train_here(data_root, tmp_path / name, device, given) == 0
    four, one = (tmp_path / name / "case" / "main" for name in ("four", "one"))
    assert_trained_alike(four, one)


@pytest.mark.dist
def test_two_ranks_train_on_the_batches_of_one(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    settings = f"{WARMUP},model.hidden_dropout_prob=0,run.max_micro_batch_size=4"
    assert train_here(data_root, tmp_path / "one", device, settings) == 0
    flags = ["--ds_config", str(tmp_path / "one" / "case.json"), "--data", str(data_root)]
    flags += ["--set", settings, "--out", str(tmp_path / "two")]
    code, output = run(2, *flags, launcher="spawn")
    assert code == 0, output
    one, two = (tmp_path / name / "case" / "main" for name in ("one", "two"))
    assert_trained_alike(two, one)
    assert read_json(two / "case.json")["resolved"]["lanes"] == 8


def test_what_a_warmup_cannot_be(data_root: Path, tmp_path: Path, device: torch.device) -> None:
    """Each batch is divided among lanes and ranks, and a run keeps its sizes."""
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))

    def rejected(settings: str, world_size: int = 1) -> str:
        with pytest.raises(ConfigError) as error:
            case = read_case(path, "main", settings)
            prepare_run(case, data_root, tmp_path / "out", World(world_size=world_size))
        return str(error.value)

    assert "cannot be divided among 16 processes" in rejected(WARMUP, world_size=16)
    assert "data.lanes is 16, which does not divide every batch" in rejected(
        f"{WARMUP},data.lanes=16"
    )
    assert "expected a multiple of run.batch_size_warmup.from_size 12" in rejected(
        'run.batch_size_warmup={"from_size":12,"num_steps":7}'
    )
    assert "from_size is 32, expected less than train_batch_size 32" in rejected(
        'run.batch_size_warmup={"from_size":32,"num_steps":7}'
    )
    out = tmp_path / "started"
    assert train_here(data_root, out, device, f"{WARMUP},run.max_steps=2") == 0
    with pytest.raises(ConfigError, match=r"batch_size_warmup\.num_steps: 7 -> 8"):
        train_here(data_root, out, device, f"{WARMUP.replace('7', '8')}")
