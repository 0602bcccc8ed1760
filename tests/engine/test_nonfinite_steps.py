"""A non-finite loss or gradient: no rank applies the step, and nothing else changes."""

import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bertds.checkpoint.directory import list_checkpoints
from bertds.distributed.failures import translate_step_errors
from bertds.distributed.world import World
from bertds.engine.engine import Engine
from bertds.errors import NonFiniteError
from bertds.model.mlm import MaskedLanguageModel
from bertds.tracking.skipped_batches import NAME
from tests.data.test_loader import loader_of
from tests.helpers.gloo import run
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import figures_of
from tests.helpers.packs import sequences_of
from tests.helpers.weights import read_weights
from tests.helpers.workers.nonfinite_step import FAULTS

WORKER = Path(__file__).resolve().parents[1] / "helpers" / "workers" / "nonfinite_step.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    scratch = tmp_path_factory.mktemp("bad")
    return run(WORKER, 2, scratch, scratch=scratch)


@pytest.mark.dist
def test_a_non_finite_batch_has_no_effect(results: list[dict[str, Any]]) -> None:
    """At each stage and precision, in either micro-step, with either kind of schedule."""
    compared = [result for result in results if "skips" in result]
    assert len(compared) == 2 * (7 + len(FAULTS))
    for result in compared:
        assert result["skips"] == [0, 0, 2, 0], result
        assert result["untouched"], result
        assert result["stood"], result
        assert result["same"], result
        assert result["rate"], result
        assert result["counters"] == [4, 1], result


@pytest.mark.dist
def test_non_finite_weights_are_never_saved(results: list[dict[str, Any]]) -> None:
    saves = [result for result in results if "said" in result]
    assert len(saves) == 4
    for result in saves:
        assert "is NaN or infinite at step 1, so no checkpoint is written" in result["said"]
        assert result["left"] == ["latest", "step_0000000001"]


@contextlib.contextmanager
def spoilt(monkeypatch: pytest.MonkeyPatch, steps: set[int], scale: float) -> Iterator[None]:
    """Multiply the loss of the second micro-step of some steps by a factor."""
    train_step, forward = Engine.train_step, MaskedLanguageModel.forward
    calls: Iterator[int] = itertools.count()
    now = -1

    def counted(engine: Engine, packs: Any, step: int, **keys: Any) -> Any:
        nonlocal now, calls
        now, calls = step, itertools.count()
        return train_step(engine, packs, step, **keys)

    def spoiling(model: MaskedLanguageModel, *arguments: Any) -> Any:
        loss, correct = forward(model, *arguments)
        return (loss * scale if model.training and now in steps and next(calls) else loss), correct

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "train_step", counted)
        patch.setattr(MaskedLanguageModel, "forward", spoiling)
        yield


def bad_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "case" / "main" / NAME).read_text().splitlines()]


@pytest.mark.parametrize("stage", [0, 1])
def test_training_continues_and_lists_the_skipped_sequences(
    stage: int,
    device: torch.device,
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when stopped by an error in between and resumed."""
    settings = f"zero_optimization.stage={stage},run.max_bad_steps=3"
    with spoilt(monkeypatch, {2, 5, 6}, math.nan):
        assert train_here(data_root, tmp_path / "straight", device, settings) == 0
    straight = tmp_path / "straight" / "case" / "main"
    figures = [line for line in figures_of(straight) if "loss/train" in line]
    assert [line["step"] for line in figures] == [1, 2, 4, 5, 8, 9, 10, 11, 12]
    assert [line["sequences"] for line in figures] == [32 * line["step"] for line in figures]
    assert all(math.isfinite(line["loss/train"]) for line in figures)
    assert [line["step"] for line in bad_lines(tmp_path / "straight")] == [3, 6, 7]
    assert all(line["loss"] == "nan" for line in bad_lines(tmp_path / "straight"))
    resumed = tmp_path / "resumed"
    with spoilt(monkeypatch, {2, 5, 6, 7}, math.nan), pytest.raises(NonFiniteError):
        train_here(data_root, resumed, device, settings)
    assert [line["step"] for line in bad_lines(resumed)] == [3, 6, 7, 8]
    with spoilt(monkeypatch, {5, 6}, math.nan):
        assert train_here(data_root, resumed, device, settings) == 0
    assert bad_lines(resumed) == bad_lines(tmp_path / "straight")
    assert figures_of(resumed / "case" / "main") == figures_of(straight)
    ours, reference = (
        read_weights(list_checkpoints(each)[0]) for each in (resumed / "case" / "main", straight)
    )
    assert all(ours[name].equal(reference[name]) for name in reference)


def test_too_many_skipped_steps_end_the_run_with_good_weights(
    device: torch.device, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count survives a checkpoint and a restart, and is reset by a good step."""
    settings = "run.max_bad_steps=4,run.eval_every=12"
    every = set(range(3, 12))
    with (
        spoilt(monkeypatch, {1, *every}, math.inf),
        pytest.raises(NonFiniteError, match="4 steps in a row up to step 7 had") as ended,
    ):
        train_here(data_root, tmp_path, device, settings)
    assert ended.value.code == 71
    run_dir = tmp_path / "case" / "main"
    assert [path.name for path in list_checkpoints(run_dir)] == ["step_0000000004"]
    saved = read_weights(list_checkpoints(run_dir)[0])
    assert all(bool(value.isfinite().all()) for value in saved.values())
    with (
        spoilt(monkeypatch, every, math.inf),
        pytest.raises(NonFiniteError, match="4 steps in a row up to step 7 had"),
    ):
        train_here(data_root, tmp_path, device, settings)


def test_origins_identify_the_sequences_of_a_batch(data_root: Path) -> None:
    """Read by dataset and sequence index, they give the tokens and masks of the batch."""
    sets = ({"name": "ko", "weight": 2}, {"name": "en", "fraction": 0.7})
    loader = loader_of(data_root, sets=sets)
    by_name = {masked_set.subset.name: masked_set for masked_set, _ in loader._entries}
    for number in (0, 1, loader.sampler.steps_per_epoch - 1, loader.sampler.steps_per_epoch + 3):
        found: Counter[Any] = Counter()
        for name, pass_number, ordinal in loader.origins(number):
            masked_set = by_name[name]
            block = masked_set.subset.block_of(ordinal)
            rows = masked_set.read(block, pass_number)
            row = ordinal - masked_set.subset.shards.first_sequence(block)
            one = rows.cut(row, row + 1)
            found[tuple(one.tokens.tolist()), tuple(one.inputs.tolist())] += 1
        batch = [one for pack in loader.batch(number) for one in sequences_of(pack, 0)]
        assert found == Counter((one.tokens, one.inputs) for one in batch)


def test_the_minimum_loss_scale_is_an_error_message() -> None:
    """DeepSpeed's own scaler, driven down to its minimum."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    scaler = DynamicLossScaler(4, 1000, 1, delayed_shift=1, consecutive_hysteresis=False)
    with pytest.raises(NonFiniteError, match=r"fp16\.min_loss_scale"):
        for _ in range(4):
            with translate_step_errors(World(), 4):
                scaler.update_scale(overflow=True)
    with pytest.raises(RuntimeError, match="something else"), translate_step_errors(World(), 4):
        raise RuntimeError("something else")
