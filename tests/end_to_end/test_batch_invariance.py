"""The same losses at any world size, accumulation and ZeRO stage, and after changing it."""

import datetime
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bertds.checkpoint.directory import checkpoint_path, list_checkpoints
from bertds.engine.deepspeed_compat import has_bf16_instructions
from bertds.io.json_files import read_json
from bertds.runs.status import write_status
from tests.conftest import CORPUS
from tests.helpers.batch_splits import (
    CASE,
    REFERENCES,
    Split,
    all_splits,
    differences,
    make_data,
    train,
)
from tests.helpers.launching import ROOT, figures_of, lines_of, run

# fp32: sums in another order round differently, and the differences accumulate over steps.
FP32_BOUND, FP32_TYPICAL = 1e-5, 2e-6


# bf16 rounds each gradient by up to 2**-9, in every micro-step and all-reduce. Over many parameters
# and tokens the errors average out (measured: benchmarks/results/batch_invariance.md).
BF16_LOSS_BOUND, BF16_NORM_BOUND = 2**-11, 2**-8
SOME = [
    REFERENCES["fp32"],
    Split(1, 4, 3, "fp32"),
    Split(2, 1, 1, "fp32"),
    Split(2, 2, 0, "fp32"),
]  # four ranks: test_resume_at_another_world_size_and_stage, and all splits in test-slow
if has_bf16_instructions():  # emulated, these two take more than a minute
    SOME += [REFERENCES["bf16"], Split(2, 1, 3, "bf16")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the real corpus's first lines or, without it, of a generated corpus."""
    root = tmp_path_factory.mktemp("sets")
    if (CORPUS / "tiny").is_dir():
        make_data(CORPUS / "tiny", root)
    else:
        sample = ["sample", "--out", str(root / "text"), "--sentences", "4000"]
        subprocess.run([sys.executable, "-m", "data_prep", *sample], check=True, cwd=ROOT)
        make_data(root / "text", root, merges=300)
    return root


@pytest.mark.dist
@pytest.mark.parametrize(
    "splits",
    [pytest.param(SOME, id="some"), pytest.param(all_splits(), id="all", marks=pytest.mark.slow)],
)
def test_every_split_of_a_batch_gives_the_same_losses(
    splits: list[Split], data: Path, tmp_path: Path
) -> None:
    """20 steps of DeepSpeed have the losses and gradient norms of one process."""
    train(splits, data, tmp_path)
    for split in splits:
        found = differences(split, REFERENCES[split.precision], tmp_path)
        assert len(found["loss/train"]) == CASE["bertds"]["run"]["max_steps"]
        worst = {name: max(values) for name, values in found.items()}
        if split.precision == "fp32":
            assert max(worst.values()) < FP32_BOUND, (split, worst)
            assert sorted(found["loss/train"])[10] < FP32_TYPICAL, (split, worst)
        else:
            assert worst["grad_norm"] < BF16_NORM_BOUND, (split, worst)
            assert worst["loss/train"] < BF16_LOSS_BOUND, (split, worst)
            assert worst["loss/valid"] < BF16_LOSS_BOUND, (split, worst)


HALF, WHOLE = 8, 16


def resharding_case(path: Path) -> None:
    case = json.loads(json.dumps(CASE)) | {"train_batch_size": 192}
    case["zero_optimization"] = {"stage": 2}
    case["scheduler"]["params"] |= {"total_num_steps": WHOLE}
    case["bertds"]["data"]["train"] = [{"name": "ko"}, {"name": "en"}]
    case["bertds"]["data"]["valid"] = {"en": {"name": "en"}}
    case["bertds"]["run"] = {
        "num_epochs": 100,
        "max_steps": WHOLE,
        "log_every": 1,
        "save_every": HALF,
        "keep_last": WHOLE,
    }
    path.write_text(json.dumps(case))


@pytest.fixture(scope="module")
def halves(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 ranks at ZeRO 2, and a copy of it as if killed after half of its steps."""
    root = tmp_path_factory.mktemp("halves")
    resharding_case(root / "case.json")
    code, output = run(4, *flags(root, data_root, root / "whole"), launcher="spawn")
    assert code == 0, output
    half = shutil.copytree(root / "whole", root / "half") / "case" / "main"
    for folder in list_checkpoints(half):
        if folder.name > checkpoint_path(half, HALF).name:
            shutil.rmtree(folder)
    write_status(half, "running", 75, "training", HALF)
    return root


def flags(root: Path, data: Path, out: Path, settings: str = "") -> list[str]:
    paths = ["--ds_config", str(root / "case.json"), "--data", str(data), "--out", str(out)]
    return [*paths, "--set", settings] if settings else paths


@pytest.mark.dist
@pytest.mark.parametrize(
    ("world_size", "stage"),
    [
        (1, 0),
        (3, 3),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(8, 1, marks=pytest.mark.slow),
        pytest.param(8, 3, marks=pytest.mark.slow),
    ],
)
def test_resume_at_another_world_size_and_stage(
    world_size: int, stage: int, halves: Path, data_root: Path, tmp_path: Path
) -> None:
    """Four ranks at ZeRO 2 started it; the same command finishes it elsewhere, with the same losses."""
    shutil.copytree(halves / "half", tmp_path / "out")
    settings = f"zero_optimization.stage={stage}"
    arguments = flags(halves, data_root, tmp_path / "out", settings)
    code, output = run(world_size, *arguments, launcher="spawn")
    assert code == 0, output
    assert f"resuming from step {HALF}" in output
    ours, whole = (
        figures_of(out / "case" / "main") for out in (tmp_path / "out", halves / "whole")
    )
    after = [line for line in ours if line["step"] > HALF]
    reference = [line for line in whole if line["step"] > HALF]
    assert len(after) == WHOLE - HALF + 2  # and two validations
    for one, other in zip(after, reference, strict=True):
        one.pop("padding", None)  # smaller micro-batches have other padding
        other.pop("padding", None)
        assert one == pytest.approx(other, rel=FP32_BOUND)


@pytest.fixture(scope="module")
def whole_text(corpus: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All English lines of the real corpus as one dataset."""
    root = tmp_path_factory.mktemp("whole")
    text, tokenizer = str(corpus / "en.train.txt.gz"), str(data / "tokenizer.json")
    flags = ["--input", text, "--tokenizer", tokenizer, "--out", str(root), "--seq_len", "128"]
    subprocess.run([sys.executable, "-m", "data_prep", "shard", *flags], check=True, cwd=ROOT)
    return root


@pytest.mark.slow
@pytest.mark.dist
def test_resume_at_the_end_of_an_epoch_is_immediate(whole_text: Path, tmp_path: Path) -> None:
    """After 300,000 real sentences the first step is done 5 s after the engine is built."""
    case = json.loads(json.dumps(CASE)) | {"train_batch_size": 8192, "scheduler": None}
    model, block = case["bertds"]["model"], case["bertds"]
    model |= {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    block["data"] |= {"valid": {}, "train": [{"name": "train"}]}
    block["masking"] = {"ratio": 0.01}
    block["run"] = {"num_epochs": 2, "log_every": 1}
    steps = int(read_json(whole_text / "train" / "index.json")["sequences"]) // 8192
    (tmp_path / "case.json").write_text(json.dumps(case))
    for last in (steps, steps + 1):
        arguments = flags(tmp_path, whole_text, tmp_path / "out", f"run.max_steps={last}")
        code, output = run(0, *arguments)
        assert code == 0, output
    run_dir = tmp_path / "out" / "case" / "main"
    log = (run_dir / "train.log").read_text().splitlines()
    (resumed,) = [line for line in log if f"resuming from step {steps}" in line]
    engine_up = datetime.datetime.strptime(resumed[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    first_step = (run_dir / "metrics.jsonl").stat().st_mtime
    assert lines_of(run_dir)[-1]["step"] == steps + 1
    assert 0 < first_step - engine_up < 5
