"""A run begins with the weights of an export at any ZeRO stage, and goes on with its own."""

import json
import shutil

import pytest
import torch

from bertds.export import export
from bertds.trained import Trained
from tests.launching import run
from tests.trained_runs import BF16, CASE, arm

pytestmark = pytest.mark.dist

# Too small a rate to move a weight, so that the first checkpoint tells what the run began with.
STILL = {"optimizer": {"params": {"lr": 1e-30, "weight_decay": 0}}}
ARMS = {
    "stage0": arm("bert-prenorm", 0, **STILL),
    "stage1_bf16": arm("bert-prenorm", 1, **STILL, **BF16),
    "stage2": arm("bert-prenorm", 2, **STILL),
    "stage3_bf16": arm("bert-prenorm", 3, **STILL, **BF16),
}


def test_weights_are_those_of_the_directory_then_those_of_the_run(run_dirs, data_root, tmp_path):
    source = Trained.open(run_dirs["prenorm_of_two"], "latest")
    directory = tmp_path / "exported"
    export(source, directory)
    block = CASE["bertds"]
    changes = {"init_from": str(directory), "max_steps": 1, "eval_every": 1, "seed": 99}
    content = {"arms": ARMS, "run": block["run"] | changes}
    path = tmp_path / "case.json"
    path.write_text(json.dumps({**CASE, "bertds": {**block, **content}}))
    flags = ["--ds_config", str(path), "--data", str(data_root), "--out", str(tmp_path / "out")]
    code, output = run(2, *flags)
    assert code == 0, output
    assert output.count(f"first weights: {directory}") == len(ARMS)
    expected = dict(source.model().named_parameters())
    for name in ARMS:
        run_dir = tmp_path / "out" / "case" / name
        for key, weight in Trained.open(run_dir, "latest").model().named_parameters():
            torch.testing.assert_close(weight, expected[key], rtol=0, atol=1e-25)
    # The same run goes on, and needs the directory no more.
    shutil.rmtree(directory)
    code, output = run(0, *flags, "--arm", "stage0", "--set", "run.max_steps=2")
    assert code == 0, output
    assert "going on from step 1" in output
    assert "first weights" not in output


def test_a_missing_directory_is_said_before_anything_starts(data_root, tmp_path):
    path = tmp_path / "case.json"
    path.write_text(json.dumps(CASE))
    flags = ["--ds_config", str(path), "--data", str(data_root), "--out", str(tmp_path / "out")]
    code, output = run(0, *flags, "--set", "run.init_from=nowhere")
    assert code == 2
    assert "run.init_from is 'nowhere', wanted is a directory" in output
    assert not (tmp_path / "out").exists()
