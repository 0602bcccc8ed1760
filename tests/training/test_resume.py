"""What a resumed run must find unchanged: `run.resume`, fixed settings, its shards."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertds.errors import ConfigError
from bertds.io.json_files import read_json
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import lines_of

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
