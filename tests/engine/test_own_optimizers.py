"""Muon and StableAdamW at every ZeRO stage equal one process, and are resumed exactly."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bertds.distributed.world import World
from bertds.engine.deepspeed_config import check_device
from bertds.engine.zero_layout import inner_optimizer
from bertds.optim.muon import Muon
from tests.engine.test_engine import build, case_of, packs
from tests.helpers.gloo import ROOT, run

WORKER = ROOT / "tests" / "helpers" / "workers" / "own_optimizers.py"
BLOCK = {"type": "Muon", "params": {"lr": 1e-2, "weight_decay": 0.1}}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps at each stage, in 1 and 2 processes, and their checkpoints of step 3."""
    directory = tmp_path_factory.mktemp("muon")
    for world_size in (1, 2):
        run(WORKER, world_size, directory, "Muon", "fp32", "0123", "fresh", scratch=directory)
    return directory


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def results(scratch: Path, pattern: str) -> dict[str, dict[str, Tensor]]:
    return {path.stem: torch.load(path) for path in sorted(scratch.glob(f"{pattern}.pt"))}


def check(scratch: Path, pattern: str, count: int) -> None:
    """All states that match equal that of one process at stage 0."""
    one_process = torch.load(scratch / "fresh into fp32 0 1.pt")
    states = results(scratch, pattern)
    assert len(states) == count
    for name, state in states.items():
        assert distance(state, one_process) < 1e-6, name


@pytest.mark.dist
def test_every_stage_equals_one_process(scratch: Path) -> None:
    kinds = {key.partition("|")[0] for key in torch.load(scratch / "fresh into fp32 0 1.pt")}
    assert kinds == {"weight", "momentum_buffer", "exp_avg", "exp_avg_sq"}
    check(scratch, "fresh into fp32 * [12]", 8)


@pytest.mark.dist
@pytest.mark.slow
def test_four_processes_equal_one_process(scratch: Path) -> None:
    """Also after their checkpoint was loaded by two."""
    run(WORKER, 4, scratch, "Muon", "fp32", "0123", "fresh", scratch=scratch)
    check(scratch, "fresh into fp32 * 4", 4)
    run(WORKER, 2, scratch, "Muon", "fp32", "0123", "fp32 1 4", scratch=scratch)
    check(scratch, "fp32 1 4 into *", 4)


@pytest.mark.dist
def test_a_resumed_run_equals_the_uninterrupted_one(scratch: Path) -> None:
    """Bit-exact at the same stage in as many processes, and within rounding at others."""
    run(WORKER, 2, scratch, "Muon", "fp32", "0123", "fp32 0 1", "fp32 2 2", scratch=scratch)
    check(scratch, "fp32 [02] [12] into *", 8)
    resumed = torch.load(scratch / "fp32 2 2 into fp32 2 2.pt")
    assert distance(resumed, torch.load(scratch / "fresh into fp32 2 2.pt")) == 0.0


@pytest.mark.dist
@pytest.mark.parametrize(
    ("precision", "sources"),
    [
        ("bf16", ["bf16 0 2", "bf16 1 2"]),
        pytest.param("bf16_fp32", ["bf16_fp32 1 2"], marks=pytest.mark.slow),
        pytest.param("fp16", ["fp16 2 2"], marks=pytest.mark.slow),
    ],
)
def test_16_bits_are_resumed_exactly(tmp_path: Path, precision: str, sources: list[str]) -> None:
    stages = "".join(source.split()[1] for source in sources)
    run(WORKER, 2, tmp_path, "Muon", precision, stages, "fresh", *sources, scratch=tmp_path)
    for source in sources:
        resumed = torch.load(tmp_path / f"{source} into {source}.pt")
        assert distance(resumed, torch.load(tmp_path / f"fresh into {source}.pt")) == 0.0


@pytest.mark.dist
def test_stable_adamw_equals_one_process_and_is_resumed_exactly(tmp_path: Path) -> None:
    run(WORKER, 1, tmp_path, "StableAdamW", "fp32", "0", "fresh", scratch=tmp_path)
    run(WORKER, 2, tmp_path, "StableAdamW", "fp32", "0123", "fresh", scratch=tmp_path)
    run(WORKER, 2, tmp_path, "StableAdamW", "fp32", "02", "fp32 2 2", scratch=tmp_path)
    check(tmp_path, "fresh into fp32 * 2", 4)
    check(tmp_path, "fp32 2 2 into fp32 0 2", 1)
    resumed = torch.load(tmp_path / "fp32 2 2 into fp32 2 2.pt")
    assert distance(resumed, torch.load(tmp_path / "fresh into fp32 2 2.pt")) == 0.0


def test_groups_have_their_own_rates_and_decay_and_one_schedule(
    tmp_path: Path, device: torch.device
) -> None:
    own = {"muon_lr": 4e-2, "muon_weight_decay": 0.3}
    warmup = {"type": "WarmupLinearLR", "params": {"warmup_num_steps": 2}}
    block = {"type": "Muon", "params": BLOCK["params"] | own}
    check_device(case := case_of(tmp_path, optimizer=block, scheduler=warmup), World())
    engine, model = build(case, device)
    optimizer = inner_optimizer(engine.deepspeed)
    assert isinstance(optimizer, Muon)
    for step, factor in enumerate((0.5, 1.0)):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([1e-2 * factor, 1e-2 * factor, 4e-2 * factor])
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.3]
        engine.train_step(packs(step, 2), step, stop=False)
    assert engine.learning_rate == pytest.approx(1e-2)  # what is logged
    names = engine.deepspeed.param_names
    matrices = {names[parameter] for parameter in optimizer.param_groups[-1]["params"]}
    assert matrices == model.hidden_matrices().keys()
    engine.close()
