"""A run keeps the files of the model that it continues, and no others."""

from pathlib import Path

import pytest
import torch

from bertds.errors import CheckpointError
from bertds.huggingface.source_model import SourceModel
from bertds.inference.export import export
from bertds.runs.trained_run import TrainedRun
from tests.helpers.in_process_training import train_here
from tests.training.test_branch import failing_before

pytestmark = pytest.mark.dist
ONE_STEP = "run.max_steps=1,run.eval_at_start=false"


@pytest.fixture(scope="module")
def trunk(data_root: Path, tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Path:
    """A run that began with random weights."""
    out = tmp_path_factory.mktemp("trunk")
    assert train_here(data_root, out, device, ONE_STEP) == 0
    return out / "case" / "main"


@pytest.fixture(scope="module")
def model(trunk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory."""
    out = tmp_path_factory.mktemp("hub") / "model"
    export(TrainedRun.open(trunk, "latest"), out)
    return out


def test_the_files_of_an_earlier_start_do_not_stay(
    trunk: Path,
    model: Path,
    data_root: Path,
    tmp_path: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first start had no checkpoint; the second begins with random weights."""
    run_dir = tmp_path / "case" / "main"
    with failing_before(1, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_here(data_root, tmp_path, device, f"{ONE_STEP},run.init_from={model}")
    assert SourceModel.of_run(run_dir)
    SourceModel.copy(run_dir, tmp_path / "branch")
    SourceModel.copy(trunk, tmp_path / "branch")  # of a run that has no such files
    assert SourceModel.of_run(tmp_path / "branch") is None
    assert train_here(data_root, tmp_path, device, ONE_STEP) == 0
    assert SourceModel.of_run(run_dir) is None


def test_a_rank_that_cannot_keep_the_files_ends_all_ranks_with_the_reason(
    model: Path,
    data_root: Path,
    tmp_path: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the other ranks would wait for rank 0, which alone writes them."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SourceModel, "keep", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        train_here(data_root, tmp_path, device, f"{ONE_STEP},run.init_from={model}")
