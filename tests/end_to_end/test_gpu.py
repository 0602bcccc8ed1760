"""On a GPU, `make test-gpu`: every precision and stage learns, resumes bit-exact, is evaluated."""

import json
from pathlib import Path

import pytest
import torch

from bertds.checkpoint.directory import list_checkpoints
from bertds.config.case import read_case
from bertds.inference.evaluate import evaluate
from bertds.runs.trained_run import TrainedRun
from tests.helpers.in_process_training import BASE
from tests.helpers.launching import lines_of, run
from tests.helpers.weights import read_weights

PRECISIONS = {"fp32": "", "bf16": ",bf16.enabled=true", "fp16": ",fp16.enabled=true"}
RUNS = [(stage, name) for stage in range(4) for name in PRECISIONS if (stage, name) != (0, "fp16")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("stage", "precision"), RUNS)
def test_a_run_learns_resumes_and_is_evaluated(
    stage: int, precision: str, data_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    settings = f"zero_optimization.stage={stage},run.deterministic=true{PRECISIONS[precision]}"
    assert read_case(path, "main", settings).precision == precision

    def train(out: str, steps: int) -> Path:
        flags = ["--ds_config", path, "--data", data_root, "--out", tmp_path / out]
        changed = f"--set={settings},run.max_steps={steps},optimizer.params.lr=5e-3"
        code, output = run(0, *map(str, flags), changed)
        assert code == 0, output
        return tmp_path / out / "case" / "main"

    straight = train("straight", 12)
    train("stopped", 6)
    stopped = train("stopped", 12)
    ours, theirs = (read_weights(list_checkpoints(one)[0]) for one in (straight, stopped))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    losses = [line["loss/valid"] for line in lines_of(straight) if "loss/valid" in line]
    assert losses[-1] < losses[0]
    again = evaluate(TrainedRun.open(straight, "latest"), data_root)
    assert again["loss/valid"] == pytest.approx(losses[-1], rel=1e-5)
