"""A run begins with the weights of an export at any ZeRO stage, and goes on with its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.errors import ConfigError
from bertds.inference.export import export
from bertds.runs.trained_run import TrainedRun
from bertds.train.setup import prepare_run
from tests.helpers.launching import run
from tests.helpers.trained_runs import BF16, CASE, arm

pytestmark = pytest.mark.dist


# Too small a rate to move a weight, so that the first checkpoint tells what the run began with.
STILL = {"optimizer": {"params": {"lr": 1e-30, "weight_decay": 0}}}
ARMS = {
    "stage0": arm("bert-prenorm", 0, **STILL),
    "stage1_bf16": arm("bert-prenorm", 1, **STILL, **BF16),
    "stage2": arm("bert-prenorm", 2, **STILL),
    "stage3_bf16": arm("bert-prenorm", 3, **STILL, **BF16),
}


def write_case(path: Path, directory: Path, arms: list[str]) -> Path:
    """A case of one still step that begins with the weights of a directory."""
    block = CASE["bertds"]
    changes = {"init_from": str(directory), "max_steps": 1, "eval_every": 1, "seed": 99}
    content = {"arms": {name: ARMS[name] for name in arms}, "run": block["run"] | changes}
    path.write_text(json.dumps({**CASE, "bertds": {**block, **content}}))
    return path


@pytest.mark.parametrize(
    ("processes", "arms"),
    [
        (0, ["stage1_bf16", "stage3_bf16"]),
        pytest.param(2, list(ARMS), marks=pytest.mark.slow),
    ],
)
def test_weights_are_those_of_the_directory_then_those_of_the_run(
    run_dirs, data_root, tmp_path, processes, arms
):
    """In 16 bits as well: the fp32 weights are not those that DeepSpeed rounds."""
    source, directory = TrainedRun.open(run_dirs["prenorm_of_two"], "latest"), tmp_path / "exported"
    export(source, directory)
    path = write_case(tmp_path / "case.json", directory, arms)
    flags = ["--ds_config", str(path), "--data", str(data_root), "--out", str(tmp_path / "out")]
    code, output = run(processes, *flags, launcher="spawn")
    assert code == 0, output
    assert output.count(f"initial weights: {directory}") == len(arms)
    expected = dict(source.model().named_parameters())
    for name in arms:
        model = TrainedRun.open(tmp_path / "out" / "case" / name, "latest").model()
        for key, weight in model.named_parameters():
            torch.testing.assert_close(weight, expected[key], rtol=0, atol=1e-25)
    # The same run goes on, and needs the directory no more.
    shutil.rmtree(directory)
    code, output = run(0, *flags, "--arm", arms[0], "--set", "run.max_steps=2")
    assert code == 0, output
    assert "resuming from step 1" in output
    assert "initial weights" not in output


def test_what_does_not_fit_is_said_before_anything_starts(run_dirs, data_root, tmp_path):
    directory = tmp_path / "exported"
    export(TrainedRun.open(run_dirs["bert"], "latest"), directory)
    path = write_case(tmp_path / "case.json", directory, ["stage0"])
    for settings, words in [
        ("", "model_type 'bert', the case needs 'roberta-prelayernorm'"),
        ("run.init_from=nowhere", "run.init_from is 'nowhere', wanted is a directory"),
        ('run.init_from=""', 'run.init_from is "", wanted a text'),
    ]:
        with pytest.raises(ConfigError, match=words):
            case = read_case(path, "stage0", settings)
            prepare_run(case, data_root, tmp_path / "out", World())
    assert not (tmp_path / "out").exists()
