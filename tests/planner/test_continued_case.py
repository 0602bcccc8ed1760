"""`python -m bertds init --from` writes a case that trains."""

import shlex
import shutil

import pytest
import torch

from bertds import Case
from bertds.config.presets import PRESETS
from bertds.distributed.world import World
from bertds.planner.continued_case import Schedule
from bertds.training.setup import prepare_run
from tests.helpers.trained_runs import bertds_command
from tests.huggingface.test_pretrained import make_model, write


@pytest.fixture
def shards(data_root, tmp_path):
    """A directory with the sets train and valid."""
    shutil.copytree(data_root / "ko", tmp_path / "data/corpus/train")
    shutil.copytree(data_root / "en", tmp_path / "data/corpus/valid")
    return tmp_path / "data/corpus"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_case_continues_the_model(tokenizer, shards, tmp_path, capsys, preset):
    model = make_model(tokenizer, preset=preset, max_position_embeddings=64)
    directory, out = write(model, tokenizer, tmp_path / "hub"), tmp_path / "continued.json"
    code, stdout, _ = bertds_command(
        capsys, "init", "--from", directory, "--data", shards, "--out", out
    )
    assert code == 0
    assert f"--ds_config {out} --data {shards.parent}" in stdout
    case = Case.read(out)
    run = prepare_run(case, shards.parent, tmp_path / "runs", World())
    assert run.pretrained is not None
    assert torch.equal(
        run.pretrained.weights()["encoder.embeddings.tokens.weight"],
        model.encoder.embeddings.tokens.weight,
    )
    assert list(run.valid) == ["corpus"]
    steps = run.lengths.num_steps
    assert f"{steps:,} steps" in stdout
    assert case.bertds.run.num_epochs == 10  # of a small text


@pytest.mark.parametrize(
    ("name", "here", "given", "valid"),
    [
        ("corpus", "data/corpus", ".", "corpus"),
        ("corpus", "data/corpus/train", "..", "corpus"),
        ("my corpus", "data", "my corpus", "my-corpus"),
        ("코퍼스", "data", "코퍼스", "valid"),
    ],
)
def test_any_directory_of_shards_gives_a_case_that_can_be_read(
    tokenizer, shards, tmp_path, capsys, monkeypatch, name, here, given, valid
):
    shards.rename(shards.parent / name)
    model = make_model(tokenizer, max_position_embeddings=64)
    directory, out = write(model, tokenizer, tmp_path / "hub"), tmp_path / "continued.json"
    monkeypatch.chdir(tmp_path / here)
    code, stdout, _ = bertds_command(
        capsys, "init", "--from", directory, "--data", given, "--out", out
    )
    assert code == 0
    data = shlex.split(stdout)[-1]
    run = prepare_run(Case.read(out), data, tmp_path / "runs", World())
    assert list(run.valid) == [valid]


def test_batch_rate_and_length_follow_the_size_of_the_text():
    schedules = [Schedule.of(sequences) for sequences in (1, 500, 20_000, 1_000_000)]
    found = [(each.batch, each.epochs, each.steps, each.rate) for each in schedules]
    assert found == [
        (1, 10, 10, 6.3e-06),
        (4, 8, 1000, 1.3e-05),
        (128, 7, 7 * 156, 7.1e-05),
        (256, 1, 3906, 1e-4),
    ]


def test_what_does_not_fit_is_named_and_nothing_is_written(tokenizer, shards, tmp_path, capsys):
    short = write(make_model(tokenizer, max_position_embeddings=16), tokenizer, tmp_path / "short")
    out = tmp_path / "case.json"
    for flags, words in [
        (("--from", "someone/model"), "--from is 'someone/model', expected a directory"),
        (("--from", short), "accepts 16: make shards with --seq_len 16"),
        ((), "--from is missing"),
    ]:
        code, _, stderr = bertds_command(capsys, "init", *flags, "--data", shards, "--out", out)
        assert code == 2
        assert words in stderr
        assert stderr.count("\n") == 1
        assert not out.exists()
