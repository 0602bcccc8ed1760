"""A run starts from the weights of an export at any ZeRO stage, and resumes from its own."""

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
from bertds.training.setup import prepare_run
from tests.helpers.launching import lines_of, run
from tests.helpers.trained_runs import BF16, CASE, arm

pytestmark = pytest.mark.dist


# The learning rate is too small to change a weight: the first checkpoint holds the initial weights.
STILL = {"optimizer": {"params": {"lr": 1e-30, "weight_decay": 0}}}
ARMS = {
    "stage0": arm("bert-prenorm", 0, **STILL),
    "stage1_bf16": arm("bert-prenorm", 1, **STILL, **BF16),
    "stage2": arm("bert-prenorm", 2, **STILL),
    "stage3_bf16": arm("bert-prenorm", 3, **STILL, **BF16),
}


def write_case(path: Path, directory: Path, arms: list[str]) -> Path:
    """A case of one step that starts from the weights of a directory and does not change them."""
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
def test_training_starts_from_the_directory_and_resumes_from_checkpoints(
    run_dirs, data_root, tmp_path, processes, arms
):
    """Also in bf16: the fp32 weights are not the ones that DeepSpeed rounds."""
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
        lines = lines_of(tmp_path / "out" / "case" / name)
        before, after = [line for line in lines if "loss/valid" in line]
        assert (before["step"], after["step"]) == (0, 1)  # validated before the first step as well
        assert before["loss/valid"] == after["loss/valid"]
    # A resumed run no longer needs the directory.
    shutil.rmtree(directory)
    code, output = run(0, *flags, "--arm", arms[0], "--set", "run.max_steps=2")
    assert code == 0, output
    assert "resuming from step 1" in output
    assert "initial weights" not in output


def test_mismatches_are_rejected_before_anything_starts(run_dirs, data_root, tmp_path):
    directory = tmp_path / "exported"
    export(TrainedRun.open(run_dirs["bert"], "latest"), directory)
    path = write_case(tmp_path / "case.json", directory, ["stage0"])
    for settings, words in [
        ("", "model_type 'bert', the case needs 'roberta-prelayernorm'"),
        ("run.init_from=nowhere", "run.init_from is 'nowhere', expected a directory"),
        ('run.init_from=""', 'run.init_from is "", expected a string'),
    ]:
        with pytest.raises(ConfigError, match=words):
            case = read_case(path, "stage0", settings)
            prepare_run(case, data_root, tmp_path / "out", World())
    assert not (tmp_path / "out").exists()


def test_a_run_with_a_derived_model_does_not_need_the_directory(tokenizer, data_root, tmp_path):
    """It is resumed, opened and exported from its own directory."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    config.intermediate_size, config.max_position_embeddings, config.pad_token_id = 48, 64, 0
    directory = tmp_path / "source"
    transformers.BertForMaskedLM(config).save_pretrained(directory)
    (directory / "tokenizer.json").write_bytes(tokenizer.content)
    path = write_case(tmp_path / "case.json", directory, ["stage0"])
    content = json.loads(path.read_text())
    del content["bertds"]["model"], content["bertds"]["arms"]["stage0"]["bertds"]["model"]
    path.write_text(json.dumps(content))
    flags = ["--ds_config", str(path), "--data", str(data_root), "--out", str(tmp_path / "out")]
    code, output = run(0, *flags)
    assert code == 0, output
    shutil.rmtree(directory)
    code, output = run(0, *flags, "--set", "run.max_steps=2")
    assert code == 0, output
    assert "resuming from step 1" in output
    trained = TrainedRun.open(tmp_path / "out" / "case" / "stage0", "latest")
    assert trained.case.bertds.model.intermediate_size == 48
    export(trained, tmp_path / "exported")
    exported = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert exported["intermediate_size"] == 48
