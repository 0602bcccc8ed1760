"""The engine trains on the varlen path as it does on rows; kernels for the CPU replace the GPU's."""

from pathlib import Path

import pytest
import torch

from bertds.training import open_data
from tests.engine.test_engine import build, case_of, packs
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import lines_of
from tests.helpers.varlen_kernels import calls

NUM_LAYERS = 2
MODERNBERT = f"model.preset=modernbert,model.local_attention=4,model.num_hidden_layers={NUM_LAYERS}"
BF16 = ",bf16.enabled=true"


def trained(settings: str, row_length: int, device: torch.device, tmp_path: Path) -> list[float]:
    """Losses and norms of three steps of two micro-batches each, and of an evaluation."""
    engine, _ = build(case_of(tmp_path, settings), device)
    numbers = []
    for step in range(3):
        sums = engine.train_step(packs(step, 2, row_length), step, stop=False).sums()
        numbers += [sums.mean_loss, float(engine.grad_norm)]
    numbers.append(engine.evaluate(packs(3, 2, row_length), mask_id=4).mean_loss)
    engine.close()
    return numbers


@pytest.mark.parametrize(
    ("stage", "precision", "tolerance"),
    [(0, "", 1e-5), (1, BF16, 0.02), (2, "", 1e-5), (3, BF16, 0.02)],
)
def test_steps_equal_those_on_rows(
    stage: int, precision: str, tolerance: float, device: torch.device, tmp_path: Path
) -> None:
    settings = f"{MODERNBERT}{precision},zero_optimization.stage={stage}"
    calls.clear()
    on_rows = trained(settings, 16, device, tmp_path)
    assert not calls
    by_varlen = trained(settings, 0, device, tmp_path)
    assert calls == {"forward": NUM_LAYERS * 8, "backward": NUM_LAYERS * 6}
    assert by_varlen == pytest.approx(on_rows, rel=tolerance)


def test_a_whole_run_equals_one_on_rows(
    data_root: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loader, training, validation and checkpoints, as a GPU would be given them."""
    losses = []
    for is_varlen in (False, True):
        monkeypatch.setattr(open_data, "uses_varlen_attention", lambda *_, given=is_varlen: given)
        out = tmp_path / str(is_varlen)
        calls.clear()
        assert train_here(data_root, out, device, "model.hidden_dropout_prob=0") == 0
        assert bool(calls) == is_varlen
        lines = lines_of(out / "case" / "main")
        losses.append([value for line in lines for name, value in line.items() if "loss" in name])
    assert len(losses[0]) >= 14
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
