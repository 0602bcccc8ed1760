"""A run and shards that version 0.1.0 wrote, before the packages were rearranged, are still read.

`tests/golden/earlier_version` holds two shard sets (one of them pre-masked), a run of six steps on
one of them, and the metrics that the same version logged when it continued the run to step 10.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from bertds.config.case import read_case
from bertds.data.shards.reader import ShardSet
from bertds.data.shards.verify import verify_frame, verify_shard
from bertds.distributed.world import World
from bertds.inference.evaluate import evaluate
from bertds.runs.trained_run import TrainedRun
from bertds.tracking.jsonl import read_metrics
from bertds.training.session import Session
from bertds.training.setup import prepare_run

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "earlier_version"
SHARDS = GOLDEN / "shards"
# Another CPU rounds matrix products differently.
CLOSE = {"rel": 1e-4}


@pytest.mark.parametrize("name", ["en/train", "en/valid", "ko/train", "ko/valid"])
def test_shards_are_verified_byte_by_byte(name: str) -> None:
    shards = ShardSet.open(SHARDS / name)
    faults = [*verify_frame(shards)]
    for number in range(len(shards.index.shards)):
        faults += verify_shard(shards, number)
    assert faults == []


def test_a_run_is_evaluated_as_it_was_logged() -> None:
    trained = TrainedRun.open(GOLDEN / "run", "latest")
    (logged,) = [
        line
        for line in read_metrics(GOLDEN / "run" / "metrics.jsonl")
        if line["step"] == trained.checkpoint.step and "loss/valid" in line
    ]
    metrics = evaluate(trained, str(SHARDS))
    assert metrics["loss/valid"] == pytest.approx(logged["loss/valid"], **CLOSE)
    assert metrics["acc/valid"] == logged["acc/valid"]


NEW_METRICS = {"masked_ratio", "cpu_seconds", "bits_per_character/valid"}
NEW_METRICS |= {"acc_mask/valid", "acc_random/valid", "acc_kept/valid"}


def test_a_run_is_resumed_as_the_earlier_version_resumed_it(
    device: torch.device, tmp_path: Path
) -> None:
    run_dir = tmp_path / "runs" / "old" / "main"
    shutil.copytree(GOLDEN / "run", run_dir)
    shutil.copy(GOLDEN / "case.json", tmp_path / "old.json")
    case = read_case(tmp_path / "old.json", "main", "bertds.run.max_steps=10")
    assert Session(World(), device).train(prepare_run(case, SHARDS, run_dir, World())) == 0
    expected = read_metrics(GOLDEN / "resumed_metrics.jsonl")
    resumed = [line for line in read_metrics(run_dir / "metrics.jsonl") if line["step"] > 6]
    assert len(resumed) == len(expected) == 6
    for line, reference in zip(resumed, expected, strict=True):
        assert line.keys() - NEW_METRICS == reference.keys()
        for key in ("step", "epoch", "sequences", "tokens", "padding", "acc/train", "acc/valid"):
            assert line.get(key) == reference.get(key), key
        for key in {"loss/train", "loss/valid", "grad_norm", "lr"} & reference.keys():
            assert line[key] == pytest.approx(reference[key], **CLOSE), key
    # Keys of the files on disk are a contract, too.
    written = json.loads((run_dir / "case.json").read_text())
    before = json.loads((GOLDEN / "run" / "case.json").read_text())
    assert written.keys() == before.keys()
    assert written["resolved"].keys() - {"train_row_length"} == before["resolved"].keys()
    assert written["resolved"]["guess_without_context"] == pytest.approx(
        before["resolved"]["guess_without_context"]
    )
