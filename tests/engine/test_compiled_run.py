"""Runs with `run.compile`, through DeepSpeed, the training loop and checkpoints."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.engine import engine as engine_module
from bertds.errors import ConfigError
from bertds.model.compiled import compile_parts
from bertds.training import open_data, setup
from tests.engine.test_engine import build, case_of, packs
from tests.helpers import varlen_kernels
from tests.helpers.in_process_training import BASE, train_here
from tests.helpers.launching import lines_of

COMPILED = "run.compile=true"


@pytest.fixture
def quick_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace graphs, but generate no code, which takes minutes."""
    quick = partial(compile_parts, backend="eager")
    monkeypatch.setattr(engine_module, "compile_parts", quick)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_backend")
def test_runs_with_and_without_compilation_resume_each_other(
    data_root: Path, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the varlen path, as on a GPU; with dropout."""
    monkeypatch.setattr(open_data, "uses_varlen_attention", lambda *_: True)
    losses = []
    for name, parts in {
        "plain": [""],
        "compiled_first": [f"{COMPILED},run.max_steps=6", ""],
        "compiled_last": ["run.max_steps=6", COMPILED],
    }.items():
        varlen_kernels.calls.clear()
        for settings in parts:
            assert train_here(data_root, tmp_path / name, device, settings) == 0
        assert varlen_kernels.calls
        lines = lines_of(tmp_path / name / "case" / "main")
        losses.append([line["loss/train"] for line in lines if "loss/train" in line])
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "is_varlen", "is_warned"),
    [("", False, False), (COMPILED, False, True), (COMPILED, True, False)],
)
def test_compiled_rows_are_warned_of(
    settings: str,
    is_varlen: bool,
    is_warned: bool,
    data_root: Path,
    tmp_path: Path,
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(setup, "uses_varlen_attention", lambda *_: is_varlen)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    setup.prepare_run(read_case(path, "main", settings), data_root, tmp_path / "out", World())
    assert ("each combination of row lengths is compiled anew" in told.text) == is_warned


@pytest.mark.slow
def test_a_missing_compiler_is_an_error_message(device: torch.device, tmp_path: Path) -> None:
    import torch._inductor.config

    engine, _ = build(case_of(tmp_path, COMPILED), device)
    with (
        torch._inductor.config.patch({"cpp.cxx": ("/missing/g++",), "force_disable_caches": True}),
        pytest.raises(ConfigError) as rejected,
    ):
        engine.train_step(packs(0, 2), 0, stop=False)
    engine.close()
    message = str(rejected.value)
    assert message.startswith("run.compile is true, but torch.compile fails on")
    assert "No working C++ compiler" in message
    assert "set run.compile to false" in message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_steps_equal_those_without_compilation(
    stage: int, device: torch.device, tmp_path: Path
) -> None:
    """With inductor."""
    losses = []
    for settings in ("", COMPILED):
        case = case_of(tmp_path, settings, zero_optimization={"stage": stage})
        engine, _ = build(case, device)
        steps = [engine.train_step(packs(s, 2, 0), s, stop=False).sums() for s in range(4)]
        losses.append([sums.mean_loss for sums in steps])
        losses[-1].append(engine.evaluate(packs(4, 2, 0), mask_id=4).mean_loss)
        engine.close()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
