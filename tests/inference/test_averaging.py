"""`--average`: the uniform mean of checkpoints is evaluated, exported and described."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from bertds import load_model
from bertds.checkpoint import tensor_files
from bertds.checkpoint.directory import checkpoint_path
from bertds.runs.trained_run import TrainedRun
from tests.helpers.trained_runs import bertds_command
from tests.helpers.weights import read_weights

pytestmark = pytest.mark.dist


@pytest.mark.parametrize("name", ["bert", "modernbert_bf16_of_two"])
@pytest.mark.parametrize("chunk", [1 << 22, 7])
def test_weights_are_the_mean_rounded_once(run_dirs, monkeypatch, name, chunk):
    """Whatever wrote the checkpoints, in one piece or in many, by number or by steps."""
    monkeypatch.setattr(tensor_files, "_MEAN_CHUNK", chunk)
    first, last = (read_weights(checkpoint_path(run_dirs[name], step)) for step in (3, 6))
    for average in ("2", "6,3", "step_0000000003, 6"):
        model = TrainedRun.open(run_dirs[name], average=average).model()
        for key in first:
            expected = ((first[key].double() + last[key].double()) / 2).float()
            assert torch.equal(model.get_parameter(key), expected)
            if not key.endswith("bias"):
                assert not torch.equal(expected, last[key])


def test_the_mean_of_one_checkpoint_is_that_checkpoint(run_dirs):
    model = load_model(run_dirs["bert"], average="1").module
    for key, weight in read_weights(checkpoint_path(run_dirs["bert"], 6)).items():
        assert model.get_parameter(key).detach().numpy().tobytes() == weight.numpy().tobytes()


def test_commands_use_and_name_the_mean(run_dirs, data_root, tmp_path, capsys):
    run_dir, out = run_dirs["bert"], tmp_path / "exported"
    assert bertds_command(capsys, "export", run_dir, "--out", out, "--average", "3,6")[0] == 0
    mean = load_model(run_dir, average="2").module
    written = load_file(out / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(written, mean.encoder.embeddings.tokens.weight)
    card = (out / "README.md").read_text()
    assert "Weights: mean of steps 3, 6." in card
    assert "did not validate these weights" in card
    losses = {}
    for flags in (("--average", "2"), ()):
        code, stdout, _ = bertds_command(capsys, "evaluate", run_dir, "--data", data_root, *flags)
        assert code == 0
        rows = dict(line.split(maxsplit=1) for line in stdout.splitlines())
        losses[flags] = float(rows["loss/valid"])
        assert rows["step"] == "6"
        assert rows.get("weights") == ("mean of steps 3, 6" if flags else None)
    assert len(set(losses.values())) == 2
    code, stdout, _ = bertds_command(capsys, "fill", run_dir, "가나 [MASK]", "--average", "2")
    assert (code, len(stdout.splitlines())) == (0, 5)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (
            ("--average", "3,5"),
            4,
            "no checkpoint step_0000000005; available: step_0000000006, step_0",
        ),
        (
            ("--average", "3"),
            4,
            "has 2 checkpoints, --average asks for the last 3; available: step_0",
        ),
        (("--average", "3,3"), 2, "names a step twice"),
        (("--average", "last"), 2, "expected the number of newest checkpoints, such as 3, or"),
        (("--average", "0"), 2, "expected the number of newest checkpoints"),
        (("--average", "3,"), 2, "expected the number of newest checkpoints"),
        (("--average", "2", "--checkpoint", "3"), 2, "leave one of them out"),
    ],
)
def test_mistakes_are_named(run_dirs, tmp_path, capsys, flags, code, words):
    out = tmp_path / "exported"
    result = bertds_command(capsys, "export", run_dirs["bert"], "--out", out, *flags)
    assert result[0] == code
    assert words in result[2]
    assert result[2].count("\n") == 1
    assert not out.exists()


def test_a_damaged_checkpoint_is_not_left_out_of_the_mean(run_dirs, tmp_path, capsys):
    run_dir = shutil.copytree(run_dirs["bert"], tmp_path / "case" / "run")
    (checkpoint_path(run_dir, 6) / "state.json").unlink()
    code, _, stderr = bertds_command(
        capsys, "export", run_dir, "--out", tmp_path / "exported", "--average", "2"
    )
    assert code == 4
    assert "state.json is missing" in stderr


def test_a_model_has_no_checkpoints_to_average(run_dirs, tmp_path, capsys):
    exported = tmp_path / "exported"
    assert bertds_command(capsys, "export", run_dirs["bert"], "--out", exported)[0] == 0
    code, _, stderr = bertds_command(
        capsys, "evaluate", exported, "--valid", "en", "--average", "2"
    )
    assert code == 2
    assert "--average and --ema need a run" in stderr
