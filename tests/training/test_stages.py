"""Runs in stages: each trains as its patch says, and a run killed anywhere resumes bit-exactly."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bertds.checkpoint.directory import checkpoint_path, list_checkpoints
from bertds.config.case import read_case
from bertds.config.overrides import merge_patch
from bertds.distributed.world import World
from bertds.errors import ConfigError
from bertds.io.json_files import read_json
from bertds.planner.corpus import corpus_of
from bertds.planner.plan import GPUS, make_plans, stage_table
from bertds.runs.status import write_status
from bertds.runs.trained_run import TrainedRun
from bertds.training.case_check import check_cases
from bertds.training.preemption import PreemptionSignal
from bertds.training.session import Session
from bertds.training.setup import prepare_run
from bertds.training.trainer import Trainer
from tests.helpers.launching import assert_trained_alike, figures_of, lines_of, run
from tests.helpers.weights import read_weights

# Stages b and c follow the schedule of the file, stage d has one of its own.
STAGES: list[dict[str, Any]] = [
    {
        "name": "a",
        "train_batch_size": 16,
        "bertds": {"run": {"max_steps": 3, "max_micro_batch_size": 8}},
    },
    {
        "name": "b",
        "optimizer": {"params": {"weight_decay": 0.1, "betas": [0.9, 0.95]}},
        "bertds": {
            "data": {"train": [{"name": "en", "weight": 2}, {"name": "ko", "fraction": 0.5}]},
            "masking": {"ratio": 0.3},
            "run": {"max_steps": 3, "batch_size_warmup": {"from_size": 8, "num_steps": 2}},
        },
    },
    {
        "name": "c",
        "scheduler": {"type": "WarmupLinearLR", "params": {"warmup_num_steps": 1}},
        "bertds": {
            "model": {
                "rope_theta": 500.0,
                "hidden_dropout_prob": 0.0,
                "gradient_checkpointing": True,
                "max_position_embeddings": 128,
            },
            "run": {"max_steps": 3},
        },
    },
]
CASE: dict[str, Any] = {
    "train_batch_size": 24,
    "gradient_clipping": 1.0,
    "optimizer": {"type": "AdamW", "params": {"lr": 2e-3, "weight_decay": 0.01}},
    "scheduler": {
        "type": "WarmupCosineLR",
        "params": {"warmup_num_steps": 4, "warmup_type": "linear"},
    },
    "zero_optimization": {"stage": 1},
    "bertds": {
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "positions": "rope",
            "max_position_embeddings": 64,
        },
        "data": {
            "train": [{"name": "ko"}],
            "valid": {"ko": {"name": "ko", "fraction": 0.1}},
            "seq_len": 64,
        },
        "run": {"log_every": 1, "eval_every": 2, "save_every": 1, "keep_last": 99},
        "stages": STAGES,
    },
}
SEAMS = (3, 6)
WARMUP = {"type": "WarmupLR"}


def write_case(out: Path, stages: Any = STAGES, **changes: Any) -> Path:
    out.mkdir(exist_ok=True, parents=True)
    path = out / "case.json"
    path.write_text(json.dumps(CASE | changes | {"bertds": {**CASE["bertds"], "stages": stages}}))
    return path


def train(data: Path, out: Path, device: torch.device, settings: str = "", **case: Any) -> Path:
    """Train the case into out/case/main, which it returns."""
    path, run_dir = write_case(out, **case), out / "case" / "main"
    prepared = prepare_run(read_case(path, "main", settings), data, run_dir, World())
    assert Session(World(), device).train(prepared) == 0
    return run_dir


def cut(whole: Path, out: Path, step: int) -> None:
    """Copy a run as if it was killed after the checkpoint of a step."""
    run_dir = shutil.copytree(whole, out / "case" / "main")
    for path in list_checkpoints(run_dir):
        if path.name > checkpoint_path(run_dir, step).name:
            shutil.rmtree(path)
    write_status(run_dir, "running", 75, "training", step)


def assert_equal_runs(run_dir: Path, reference: Path) -> None:
    assert figures_of(run_dir) == figures_of(reference)
    ours, theirs = (read_weights(list_checkpoints(each)[0]) for each in (run_dir, reference))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_run_killed_in_any_stage_or_at_a_seam_resumes_bit_exactly(
    stage: int, data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    settings = f"zero_optimization.stage={stage}"
    whole = train(data_root, tmp_path / "whole", device, settings)
    for step in (1, *SEAMS, 5, 8) if stage == 1 else SEAMS:
        cut(whole, tmp_path / str(step), step)
        assert_equal_runs(train(data_root, tmp_path / str(step), device, settings), whole)


def test_a_damaged_checkpoint_at_a_seam_sends_the_run_to_the_stage_before(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    whole = train(data_root, tmp_path / "whole", device)
    cut(whole, tmp_path / "cut", 6)
    run_dir = tmp_path / "cut" / "case" / "main"
    (file,) = checkpoint_path(run_dir, 6).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert_equal_runs(train(data_root, tmp_path / "cut", device), whole)


class StopInStep(PreemptionSignal):
    """A signal that arrives in one step of a launch."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


def test_a_run_preempted_in_the_last_step_of_a_stage_stops_there(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """It builds no engine for the next stage first."""
    path, run_dir = write_case(tmp_path / "stopped"), tmp_path / "stopped" / "case" / "main"
    prepared = prepare_run(read_case(path, "main"), data_root, run_dir, World())
    assert Trainer(prepared, device, StopInStep(SEAMS[0])).train() == 75
    assert read_json(run_dir / "status.json")["step"] == SEAMS[0]
    assert max(line["step"] for line in lines_of(run_dir)) == SEAMS[0]
    whole = train(data_root, tmp_path / "whole", device)
    assert_equal_runs(train(data_root, tmp_path / "stopped", device), whole)


def test_each_stage_trains_as_its_patch_says(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """Batches, masking and rates; the seams are validated and saved."""
    run_dir = train(data_root, tmp_path, device)
    lines = [line for line in lines_of(run_dir) if "loss/train" in line]
    assert [line["stage"] for line in lines] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [line["batch_size"] for line in lines] == [16] * 3 + [8, 16] + [24] * 4
    ratios = [line["masked_ratio"] for line in lines]
    assert max(*ratios[:3], *ratios[6:]) < 0.25 < min(ratios[3:6])
    # WarmupCosineLR over all 9 steps, whose warm-up of 4 begins at 0; then a schedule of 3 steps.
    rates = [line["lr"] for line in lines]
    assert rates[:6] == pytest.approx([0, 0, 5e-4, 1e-3, 1.5e-3, 2e-3 * 0.905], rel=0.02)
    assert rates[6:] == pytest.approx([2e-3, 2e-3, 1e-3])
    validated = [line["step"] for line in lines_of(run_dir) if "loss/valid" in line]
    assert validated == [2, 3, 4, 6, 8, 9]
    content = read_json(run_dir / "case.json")
    spans = [(s["name"], s["first_step"], s["last_step"]) for s in content["resolved"]["stages"]]
    assert spans == [("a", 0, 3), ("b", 3, 6), ("c", 6, 9)]
    assert content["resolved"]["lanes"] == 8
    bases = [TrainedRun.open(run_dir, str(n)).case.bertds.model.rope_theta for n in (3, 6, 7)]
    assert bases == [10_000, 10_000, 500]


def test_one_stage_is_the_plain_run(data_root: Path, tmp_path: Path, device: torch.device) -> None:
    """Two stages that change nothing but the length keep weights, moments and schedule."""
    halves = [{"name": n, "bertds": {"run": {"max_steps": 4}}} for n in ("one", "two")]
    only = [{"name": "one", "bertds": {"run": {"max_steps": 8}}}]
    staged = train(data_root, tmp_path / "only", device, stages=only)
    path = write_case(tmp_path / "plain")
    content = json.loads(path.read_text())
    del content["bertds"]["stages"]
    content["bertds"]["run"]["max_steps"] = 8
    path.write_text(json.dumps(content))
    plain = tmp_path / "plain" / "case" / "main"
    prepared = prepare_run(read_case(path, "main"), data_root, plain, World())
    assert Session(World(), device).train(prepared) == 0
    kept = [
        {k: v for k, v in line.items() if k not in ("stage", "batch_size")}
        for line in figures_of(staged)
    ]
    assert kept == figures_of(plain)
    two = train(data_root, tmp_path / "two", device, stages=halves)
    assert figures_of(two)[:4] == figures_of(staged)[:4]
    rates = [[line["lr"] for line in lines_of(each) if "lr" in line] for each in (two, staged)]
    assert rates[0] == rates[1]


@pytest.mark.dist
def test_two_ranks_train_the_stages_of_one(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    """They even resume at a seam what one process began."""
    settings = "model.hidden_dropout_prob=0"
    one = train(data_root, tmp_path / "one", device, settings)
    cut(one, tmp_path / "two", 3)
    path = write_case(tmp_path / "two")
    flags = ["--ds_config", str(path), "--data", str(data_root), "--set", settings]
    code, output = run(2, *flags, "--out", str(tmp_path / "two"), launcher="spawn")
    assert code == 0, output
    assert "stage b (2 of 3): steps 4 to 6" in output
    assert_trained_alike(tmp_path / "two" / "case" / "main", one)


def test_a_stage_is_added_to_a_finished_run(
    data_root: Path, tmp_path: Path, device: torch.device
) -> None:
    run_dir = train(data_root, tmp_path / "grown", device, stages=STAGES[:2])
    assert train(data_root, tmp_path / "grown", device) == run_dir
    assert [line["stage"] for line in lines_of(run_dir) if "lr" in line][-1] == 3
    other = [*STAGES[:1], STAGES[1] | {"train_batch_size": 16}, STAGES[2]]
    with pytest.raises(ConfigError, match="stage b: train_batch_size: 24 -> 16"):
        train(data_root, tmp_path / "grown", device, stages=other)


def test_plan_and_check_know_the_stages(data_root: Path, tmp_path: Path) -> None:
    """The steps, lanes and tokens of each, and a schedule that is as long as all of them."""
    lengths = [{"num_epochs": 1.5}, {"max_tokens": 900}, {"max_steps": 3, "num_epochs": 9}]
    stages = [merge_patch(stage, {"bertds": {"run": {"max_steps": None, **length}}})
              for stage, length in zip(STAGES, lengths, strict=True)]  # fmt: skip
    path = write_case(tmp_path, stages=stages)
    assert check_cases([(path, "main")]) == []
    case = read_case(path, "main")
    first = prepare_run(case, data_root, tmp_path / "out", World())
    runs = [first, *first.later]
    unknown = dict.fromkeys(("sequences", "mean_length", "vocab_size"))
    corpora = [corpus_of(stage, data_root, **unknown) for stage in case.stages]
    plans = make_plans(case, corpora, 1, GPUS["h100"], 0.4)
    assert [plan.steps for plan in plans] == [run.last_step - run.first_step for run in runs]
    assert {plan.lanes for plan in plans} == {run.loader.sampler.lanes for run in runs} == {8}
    assert plans[1].tokens == pytest.approx(900, abs=24 * corpora[1].mean_length)
    assert [run.has_own_schedule for run in runs] == [False, False, True]
    assert runs[0].schedule.num_steps == runs[-1].last_step == sum(plan.steps for plan in plans)
    assert runs[0].schedule.steps(None, 1.5) == runs[0].last_step
    seams = [run.loader.plan.first_epoch for run in runs]
    assert seams[:2] == [0, 2]  # 1.5 epochs, of one set of weight 1
    assert seams[2] >= 2 * (seams[1] + 1)  # the set of weight 2 has had two epochs in each
    assert "stage all" in stage_table(plans)
    too_long = WARMUP | {"params": {"warmup_num_steps": 4, "warmup_type": "linear"}}
    path = write_case(tmp_path, stages=[STAGES[0] | {"scheduler": too_long}, STAGES[2]])
    with pytest.raises(ConfigError, match="stage a: the warm-up takes 4 steps"):
        check_cases([(path, "main")])


def test_stages_share_one_tokenizer(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root, tmp_path / "data")
    other = tmp_path / "data" / "en"
    tokenizer, index = other / "tokenizer.json", read_json(other / "index.json")
    tokenizer.write_text(tokenizer.read_text() + " ")
    index["tokenizer"] = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    (other / "index.json").write_text(json.dumps(index))
    second = merge_patch(
        STAGES[2],
        {"bertds": {"data": {"train": [{"name": "en"}], "valid": {"ko": {"name": "en"}}}}},
    )
    case = read_case(write_case(tmp_path, stages=[STAGES[0], second]), "main")
    with pytest.raises(ConfigError, match="stage c has shards of another tokenizer"):
        prepare_run(case, tmp_path / "data", tmp_path / "out", World())


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"bertds": {"model": {"hidden_size": 32}}}, "changes bertds.model.hidden_size from 16"),
        ({"bertds": {"model": {"positions": "learned"}}}, "but the weights depend on it: keep it"),
        ({"bertds": {"run": {"seed": 4}}}, "changes bertds.run.seed from 0 in stage a to 4"),
        (
            {
                "optimizer": {
                    "type": "Adam",
                    "params": {"lr": 1e-3, "weight_decay": 0, "adam_w_mode": True},
                }
            },
            "moments",
        ),
        ({"bertds": {"model": {"hidden_sizes": 3}}}, "stage b: unknown key"),
        ({"name": "a"}, "two stages with the name a"),
        ({"name": None}, r"the key bertds.stages\[1\].name is missing: add it"),
        ({"bertds": {"run": {"max_steps": None}}}, "stage b: bertds.run: neither num_epochs nor"),
    ],
)
def test_what_a_stage_cannot_change(patch: dict[str, Any], message: str, tmp_path: Path) -> None:
    second = merge_patch({"name": "b", "bertds": {"run": {"max_steps": 2}}}, patch)
    path = write_case(tmp_path, stages=[STAGES[0], second])
    with pytest.raises(ConfigError, match=message):
        read_case(path, "main")
