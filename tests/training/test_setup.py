"""Mismatches are reported before a process group exists, and nothing is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bertds.config.case import read_case
from bertds.data.tokenizer import Tokenizer
from bertds.distributed.world import World
from bertds.errors import ConfigError, ShardError
from bertds.runs.status import write_status
from bertds.training import trainer
from bertds.training.setup import prepare_run
from tests.helpers.in_process_training import BASE, train_here


def refusal(data: Path, out: Path, settings: str = "", world_size: int = 1) -> str:
    """The error message, which is one line; no directory is made."""
    path = data.parent / f"{out.name}.json"
    path.write_text(json.dumps(BASE))
    with pytest.raises((ConfigError, ShardError, ValueError)) as refused:
        world = World(world_size=world_size, local_size=world_size)
        prepare_run(read_case(path, "main", settings), data, out, world)
    assert "\n" not in str(refused.value)
    assert not out.exists()
    return str(refused.value)


def test_a_different_vocabulary_is_rejected(
    data_root: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    said = refusal(data_root, tmp_path / "out", "model.vocab_size=30522")
    assert "model.vocab_size is 30522" in said
    assert f"were made with {tokenizer.vocab_size} ids" in said
    assert "leave the key out" in said


def test_sequences_longer_than_seq_len_are_rejected(data_root: Path, tmp_path: Path) -> None:
    said = refusal(data_root, tmp_path / "out", "data.seq_len=4")
    assert "data.seq_len is 4" in said
    assert "raise it, or make shards with --seq_len 4" in said


def test_shards_cut_shorter_than_seq_len_are_warned_of(
    data_root: Path, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    """Training works, but no sequence has the length that the case asks for."""
    path, data = tmp_path / "cut.json", tmp_path / "data"
    path.write_text(json.dumps(BASE))
    for name in ("ko", "en"):
        shutil.copytree(data_root / name, data / name)
    prepare_run(read_case(path, "main"), data, tmp_path / "out", World())
    assert "were cut" not in told.text
    longest = json.loads((data / "en/index.json").read_text())["max_length"]
    change_index(data / "en", seq_len=longest)
    prepare_run(read_case(path, "main"), data, tmp_path / "out", World())
    assert (
        f"en were cut into pieces of {longest} tokens: for longer sequences make shards"
        in told.text
    )
    assert told.text.count("were cut") == 1


def test_fewer_steps_than_the_checkpoint_has_are_rejected(data_root: Path, tmp_path: Path) -> None:
    path, run_dir = tmp_path / "case.json", tmp_path / "out"
    path.write_text(json.dumps(BASE))
    (run_dir / "checkpoints" / "step_0000000008").mkdir(parents=True)
    write_status(run_dir, "pre-empted", 75, "run the same command again", 8)
    for steps in (8, 9):
        prepare_run(read_case(path, "main", f"run.max_steps={steps}"), data_root, run_dir, World())
    case = read_case(path, "main", "run.max_steps=7,scheduler=null")
    with pytest.raises(ConfigError, match="has a checkpoint of step 8, but run.max_steps or"):
        prepare_run(case, data_root, run_dir, World())
    write_status(run_dir, "done", 0, "all steps are done", 8)
    assert prepare_run(case, data_root, run_dir, World()).is_finished()


def test_a_contradiction_stops_a_new_run_but_not_one_that_resumes(
    data_root: Path, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    settings = (
        'scheduler={"type":"WarmupLR","params":{"warmup_num_steps":99,"warmup_type":"linear",'
        '"warmup_max_lr":1e-5}}'
    )
    path, run_dir = tmp_path / "case.json", tmp_path / "out"
    path.write_text(json.dumps(BASE))
    case = read_case(path, "main", settings)
    with pytest.raises(ConfigError, match="case.json .arm main.: 2 problems") as refused:
        prepare_run(case, data_root, run_dir, World())
    rates, warmup = str(refused.value).splitlines()[1:]
    assert "scheduler.params.warmup_max_lr is 1e-05, but optimizer.params.lr is 0.002" in rates
    assert "the warm-up takes 99 steps" in warmup
    assert not run_dir.exists()
    (run_dir / "checkpoints" / "step_0000000008").mkdir(parents=True)
    prepare_run(case, data_root, run_dir, World())
    assert rates.strip() in told.text
    assert warmup.strip() in told.text


def test_fewer_sequences_than_a_batch_are_rejected(data_root: Path, tmp_path: Path) -> None:
    said = refusal(data_root, tmp_path / "out", "train_batch_size=100000")
    assert "fewer than one batch of 100000: lower train_batch_size or add text" in said
    said = refusal(data_root, tmp_path / "out", 'data.train=[{"name":"ko","fraction":0.0001}]')
    assert "is none: raise it" in said


def test_a_world_size_that_does_not_divide_the_batch_is_rejected(
    data_root: Path, tmp_path: Path
) -> None:
    said = refusal(data_root, tmp_path / "out", world_size=3)
    assert "train_batch_size 32 cannot be divided among 3 processes: start 2 or 4" in said


def test_a_missing_dataset_is_rejected(data_root: Path, tmp_path: Path) -> None:
    said = refusal(data_root, tmp_path / "out", 'data.train=[{"name":"nowhere"}]')
    assert "nowhere/index.json does not exist" in said


def change_index(directory: Path, **changes: Any) -> None:
    path = directory / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_datasets_of_two_tokenizers_of_equal_size_are_rejected(
    data_root: Path, tmp_path: Path
) -> None:
    """The ids are in range, but mean other tokens."""
    for name in ("ko", "en"):
        shutil.copytree(data_root / name, tmp_path / "data" / name)
    change_index(tmp_path / "data" / "en", tokenizer="0" * 64)
    said = refusal(tmp_path / "data", tmp_path / "out")
    assert "en was made with another tokenizer than" in said
    assert "shard both with the same tokenizer.json" in said


def test_datasets_with_and_without_special_tokens_are_rejected(
    data_root: Path, tmp_path: Path
) -> None:
    for name in ("ko", "en"):
        shutil.copytree(data_root / name, tmp_path / "data" / name)
    change_index(tmp_path / "data" / "en", special_tokens=True)
    said = refusal(tmp_path / "data", tmp_path / "out")
    assert "shard both with --special_tokens, or neither" in said


def test_an_index_of_another_version_is_rejected(data_root: Path, tmp_path: Path) -> None:
    for name in ("ko", "en"):
        shutil.copytree(data_root / name, tmp_path / "data" / name)
    change_index(tmp_path / "data" / "en", version=2)
    assert "is not an index of bertds-shards version 1" in refusal(
        tmp_path / "data", tmp_path / "out"
    )


@pytest.mark.parametrize("tf32", [True, False])
def test_training_sets_tf32_as_the_case_says(
    tf32: bool,
    data_root: Path,
    tmp_path: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def stop(_device: torch.device, *, allowed: bool) -> None:
        asked.append(allowed)
        raise InterruptedError

    monkeypatch.setattr(trainer, "allow_tf32", stop)
    with pytest.raises(InterruptedError):
        train_here(data_root, tmp_path, device, f"run.tf32={json.dumps(tf32)}")
    assert asked == [tf32]


def test_a_run_without_a_checkpoint_has_rows_for_the_shards_of_now(
    data_root: Path, tmp_path: Path
) -> None:
    """Its first attempt may have failed on other shards, whose sequences were shorter."""
    path, run_dir = tmp_path / "case.json", tmp_path / "run"
    path.write_text(json.dumps(BASE))
    run_dir.mkdir()
    (run_dir / "case.json").write_text(json.dumps({"resolved": {"train_row_length": 8}}))
    run = prepare_run(read_case(path, "main"), data_root, run_dir, World())
    assert run.train_row_length == run.valid_spec.row_length > 8
    assert sum(pack.num_tokens for pack in run.loader.batch(0)) > 0
