"""What a resumed run must find unchanged: `run.resume`, fixed settings, its shards."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertds.errors import ConfigError
from bertds.io.json_files import read_json
from bertds.training.checkpoint_policy import rate_rise
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of, lines_of

SHORT = "scheduler=null,run.max_steps"


def test_run_resume_is_honoured(data_root: Path, tmp_path: Path, device: torch.device) -> None:
    """`required` never starts from step 0, `never` never resumes, a fixed key never changes."""
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        train_here(data_root, tmp_path, device, f"run.resume=required,{SHORT}=2")
    assert train_here(data_root, tmp_path, device, f"{SHORT}=2") == 0
    with pytest.raises(ConfigError, match="holds the checkpoint"):
        train_here(data_root, tmp_path, device, f"run.resume=never,{SHORT}=4")
    with pytest.raises(ConfigError, match=r"bertds\.masking\.ratio"):
        train_here(data_root, tmp_path, device, f"{SHORT}=4,masking.ratio=0.3")
    assert max(line["step"] for line in lines_of(tmp_path / "case" / "main")) == 2


def test_resume_rejects_other_training_shards(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """Other shards under the same names are detected."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data_root / "ko", data / "ko")
    shutil.copytree(data_root / "en", data / "en")
    assert train_here(data, out, device, f"{SHORT}=2") == 0
    (data / "en").rename(data / "aside")
    (data / "ko").rename(data / "en")
    (data / "aside").rename(data / "ko")
    with pytest.raises(ConfigError, match="was trained on other shards"):
        train_here(data, out, device, f"{SHORT}=4")
    assert read_json(out / "case" / "main" / "status.json")["code"] == 2


def test_resume_rejects_other_validation_shards(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """Otherwise the validation metrics before and after would be of two texts."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data_root, data)
    shutil.copytree(data_root / "ko", data / "valid")
    settings = f"data.valid={json.dumps({'one': {'name': 'valid'}})},{SHORT}"
    assert train_here(data, out, device, f"{settings}=2") == 0
    run_dir = out / "case" / "main"
    before = read_json(run_dir / "case.json")["resolved"]["guess_without_context"]
    shutil.rmtree(data / "valid")
    shutil.copytree(data_root / "en", data / "valid")
    with pytest.raises(ConfigError, match="was validated on other shards"):
        train_here(data, out, device, f"{settings}=4")
    shutil.rmtree(run_dir / "checkpoints")
    assert train_here(data, out, device, f"{settings}=4") == 0
    assert read_json(run_dir / "case.json")["resolved"]["guess_without_context"] != before


def test_an_added_validation_set_changes_nothing_that_is_trained(
    data_root: Path, tmp_path: Path, device: torch.device, write_shards, told
) -> None:
    """Its sequences are longer than all others, which would make the rows of a batch longer."""
    data, out, alone = tmp_path / "data", tmp_path / "out", tmp_path / "alone"
    shutil.copytree(data_root, data)
    rows = [[9 + i % 50 for i in range(64)]] * 3
    longer = write_shards(data / "long", rows, set_key=77, block_sequences=(3,))
    assert longer.index.max_length == 64 > read_json(data / "ko/index.json")["max_length"]
    one, two = {"one": {"name": "ko", "fraction": 0.1}}, {"two": {"name": "long"}}
    settings = f"data.valid={json.dumps(one)},run.log_every=1,run.eval_every=1,{SHORT}"
    assert train_here(data, alone, device, f"{settings}=4") == 0
    assert train_here(data, out, device, f"{settings}=2") == 0
    more = settings.replace(json.dumps(one), json.dumps(two | one))
    told.clear()
    assert train_here(data, out, device, f"{more}=3") == 0
    assert train_here(data, out, device, f"{more}=4") == 0  # the rows stay in further starts
    assert "more validation sets" in told.text
    lines, expected = (figures_of(root / "case" / "main") for root in (out, alone))
    for line, reference in zip(lines, expected, strict=True):
        if "loss/train" in line:
            assert line == reference
        elif line["step"] > 2:
            assert line["loss/valid/one"] == pytest.approx(reference["loss/valid"], rel=1e-5)
            assert "loss/valid/two" in line


def test_a_rise_of_the_learning_rate_is_warned_of(
    data_root: Path, tmp_path: Path, device: torch.device, told: pytest.LogCaptureFixture
) -> None:
    """A decay over the whole run is stretched if a finished run is extended; both rates are told."""
    whole_run = "scheduler.params.total_num_steps=null,run.max_steps"
    assert train_here(data_root, tmp_path, device, f"{whole_run}=12") == 0
    assert train_here(data_root, tmp_path, device, f"{whole_run}=18") == 0
    rates = [line["lr"] for line in lines_of(tmp_path / "case" / "main") if "lr" in line]
    assert rates[12] > 5 * rates[11]
    expected = f"from {rates[11]:.3g} at step 12 to {rates[12]:.3g} at step 13"
    assert [expected in message for message in told.messages].count(True) == 1
    told.clear()
    fixed_length = "scheduler.params.total_num_steps=18,run.max_steps=24"
    assert train_here(data_root, tmp_path, device, fixed_length) == 0
    assert "run.max_steps: 18 -> 24" in told.text
    assert "rises" not in told.text


@pytest.mark.parametrize(
    ("rates", "rate", "warns"),
    [
        ([3e-4, 4e-7], 4.8e-4, True),
        ([5e-4, 5e-4], 5e-4, False),
        ([5e-4], 6e-4, True),
        ([1e-4, 2e-4], 3e-4, False),  # warm-up
        ([5e-4, 4e-4], 3e-4, False),
        ([1e-4, 0.0], 0.0, False),
        ([1e-4, 0.0], 1e-6, True),
        ([], 3e-4, False),
    ],
)
def test_a_rise_is_one_that_the_schedule_did_not_have(
    tmp_path: Path, rates: list[float], rate: float, warns: bool
) -> None:
    """Steps after the checkpoint do not count: they are made again."""
    points = [{"step": 10 * number, "lr": lr} for number, lr in enumerate(rates, start=1)]
    lines = [*points, {"step": 20, "loss/valid": 2.0}, {"step": 99, "lr": 1e-9}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert bool(rate_rise(tmp_path, 25, rate)) == warns


def test_a_run_may_change_between_adamw_and_stable_adamw(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """Their moments have the same meaning; those of Muon are others."""
    assert train_here(data_root, tmp_path, device, f"{SHORT}=2") == 0
    stable = 'optimizer={"type":"StableAdamW","params":{"lr":0.002,"weight_decay":0.01}}'
    assert train_here(data_root, tmp_path, device, f"{SHORT}=4,{stable}") == 0
    assert train_here(data_root, tmp_path, device, f"{SHORT}=6") == 0
    with pytest.raises(ValueError, match="holds the moments of AdamW, but the case has Muon"):
        train_here(
            data_root, tmp_path, device, f"{SHORT}=8,{stable.replace('StableAdamW', 'Muon')}"
        )
