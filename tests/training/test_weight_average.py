"""`run.ema_decay`: a moving average of the weights is trained, saved, resumed and used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bertds import load_model
from bertds.checkpoint.directory import checkpoint_path, open_checkpoint
from bertds.checkpoint.tensor_files import has_ema
from bertds.config.batch import BatchSplit
from bertds.config.case import read_case
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.engine.optimizer_state import EMA, WEIGHT, fragments
from bertds.model.mlm import MaskedLanguageModel
from bertds.training.case_check import check_cases
from tests.engine.test_engine import BASE, VOCAB_SIZE, packs
from tests.helpers.in_process_training import train_here
from tests.helpers.trained_runs import bertds_command

EVERY_STEP = "scheduler=null,run.save_every=1,run.keep_last=99,run.eval_every=99"
DECAY = 0.8


def engine_of(tmp_path: Path, device: torch.device, settings: str) -> Engine:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    case = read_case(path, "main", settings)
    torch.manual_seed(0)
    model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
    split = BatchSplit(micro_batch_size=4, accumulation=2)
    return Engine.build(case, model, World(), device, split, ScheduleLengths(5, 10))


def state_of(engine: Engine, kind: str) -> dict[str, torch.Tensor]:
    parts = fragments(engine.deepspeed, engine.average)
    return {key.name: part.clone() for key, part in parts.items() if key.kind == kind}


def mean_of_each(run_dir: Path, first: int, last: int) -> dict[str, np.ndarray]:
    """The average of the weights of checkpoints, started from the first of them."""
    average: dict[str, np.ndarray] = {}
    for step in range(first, last + 1):
        weights = {
            name: parameter.detach().numpy()
            for name, parameter in load_model(run_dir, str(step)).module.named_parameters()
        }
        average = average or weights
        rate = np.float32(1 - DECAY)
        average = {name: old + (weights[name] - old) * rate for name, old in average.items()}
    return average


def saved_average(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    model = load_model(run_dir, str(step), ema=True).module
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("stage", [0, 2])
def test_only_applied_steps_and_new_weights_change_it(
    tmp_path: Path, device: torch.device, stage: int
) -> None:
    settings = f"run.ema_decay={DECAY},zero_optimization.stage={stage}"
    engine = engine_of(tmp_path, device, settings)
    start = state_of(engine, EMA)
    torch.testing.assert_close(start, state_of(engine, WEIGHT), rtol=0, atol=0)
    engine.train_step(packs(0, 2), 0, stop=False)
    before = state_of(engine, EMA)
    assert not torch.equal(before["head.dense.weight"], start["head.dense.weight"])
    poisoned = engine.deepspeed.module.head.dense.weight.register_hook(lambda grad: grad / 0)
    engine.train_step(packs(1, 2), 1, stop=False)
    poisoned.remove()
    engine.skip_step()
    torch.testing.assert_close(state_of(engine, EMA), before, rtol=0, atol=0)
    engine.train_step(packs(2, 2), 2, stop=False)
    assert not torch.equal(state_of(engine, EMA)["head.dense.weight"], before["head.dense.weight"])
    engine.set_weights({"head.dense.weight": torch.ones(16, 16)})
    torch.testing.assert_close(state_of(engine, EMA), state_of(engine, WEIGHT), rtol=0, atol=0)
    engine.close()


def test_resumed_switched_on_and_switched_off(
    data_root: Path, tmp_path: Path, device: torch.device, told: pytest.LogCaptureFixture
) -> None:
    """Stopped and resumed at another stage, it equals the average of the saved weights."""
    told.set_level("INFO", "bertds")
    on = f"{EVERY_STEP},run.ema_decay={DECAY}"
    run_dir = tmp_path / "case" / "main"
    for settings in (
        f"{EVERY_STEP},run.max_steps=2",
        f"{on},run.max_steps=4",
        f"{on},run.max_steps=6,zero_optimization.stage=3",
        f"{on},run.max_steps=8,zero_optimization.stage=0",
    ):
        assert train_here(data_root, tmp_path, device, settings) == 0
    started = "holds no moving average of the weights: it starts from those of step 2"
    assert told.text.count(started) == 1
    assert not has_ema(open_checkpoint(checkpoint_path(run_dir, 2)))
    for step in (3, 5, 8):
        assert_equal(saved_average(run_dir, step), mean_of_each(run_dir, 2, step))
    assert "is dropped" not in told.text
    assert train_here(data_root, tmp_path, device, f"{EVERY_STEP},run.max_steps=9") == 0
    assert told.text.count("that the checkpoint holds is dropped") == 1
    assert not has_ema(open_checkpoint(checkpoint_path(run_dir, 9)))
    with pytest.raises(ValueError, match="holds no moving average of the weights: train with"):
        load_model(run_dir, ema=True)


def test_commands_use_and_name_it(
    data_root: Path, tmp_path: Path, device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = f"scheduler=null,run.max_steps=3,run.ema_decay={DECAY}"
    assert train_here(data_root, tmp_path, device, settings) == 0
    run_dir, out = tmp_path / "case" / "main", tmp_path / "exported"
    capsys.readouterr()
    note = "moving average of the weights up to step 3"
    losses = set()
    for flags in ((), ("--ema",)):
        code, stdout, _ = bertds_command(capsys, "evaluate", run_dir, "--data", data_root, *flags)
        rows = dict(line.split(maxsplit=1) for line in stdout.splitlines())
        assert (code, rows.get("weights")) == (0, note if flags else None)
        losses.add(rows["loss/valid"])
    assert len(losses) == 2
    assert bertds_command(capsys, "export", run_dir, "--out", out, "--ema")[0] == 0
    assert f"Weights: {note}." in (out / "README.md").read_text()
    code, _, stderr = bertds_command(
        capsys, "export", run_dir, "--out", tmp_path / "no", "--ema", "--average", "1"
    )
    assert code == 2
    assert "leave one of them out" in stderr


def test_a_slow_average_gives_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    arms = [(path, "main")]
    (warning,) = check_cases(arms, "run.ema_decay=0.99,run.max_steps=100")
    assert "run.ema_decay is 0.99, so after 100 steps 37% of the average" in warning
    assert check_cases(arms, "run.ema_decay=0.99,run.max_steps=1000") == []
