"""Part: a small run in one precision and at one ZeRO stage learns, resumes bit-exact, is evaluated.

python -m benchmarks.gpu_once.part_train PRECISION STAGE DATA [--tiny]

Three runs in this process: to the end, to the middle, and from there to the end.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_once.models import CASE, TINY, model_named
from benchmarks.gpu_once.worker import report
from bertds.checkpoint.directory import list_checkpoints
from bertds.checkpoint.tensor_files import FragmentReader
from bertds.config.case import Case, read_case
from bertds.distributed.world import World
from bertds.engine.optimizer_state import WEIGHT
from bertds.inference.evaluate import evaluate
from bertds.runs.trained_run import TrainedRun
from bertds.training.session import open_session
from bertds.training.setup import prepare_run

DATASET = model_named("case11").dataset
STEPS = 12
SMALL = {**TINY, "hidden_size": 128, "intermediate_size": 256}
BUCKET = 1_000_000  # numbers; run.deterministic writes to all of a bucket
ROUNDING = 1e-5  # of a validation loss, relative


def make_case(precision: str, stage: int, steps: int, *, tiny: bool) -> Case:
    """Return the case of a run."""
    settings: dict[str, Any] = {
        **{f"model.{key}": value for key, value in (TINY if tiny else SMALL).items()},
        "data.train": [{"name": DATASET}],
        "data.valid": {"held_out": {"name": DATASET, "fraction": 0.02}},
        "train_batch_size": 16,
        "optimizer.params.lr": 2e-3,
        "zero_optimization.stage": stage,
        "zero_optimization.reduce_bucket_size": BUCKET,
        "bf16.enabled": precision == "bf16",
        "fp16.enabled": precision == "fp16",
        "fp16.initial_scale_power": 10,
        "run.deterministic": True,
        "run.max_steps": steps,
        "run.log_every": 1,
        "run.eval_every": STEPS // 2,
        "run.save_every": STEPS // 2,
    }
    if precision != "fp16":
        del settings["fp16.initial_scale_power"]
    text = ",".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
    return read_case(CASE, "main", text)


def train(case: Case, data: Path, out: Path) -> None:
    """Train, or resume, a run."""
    run = prepare_run(case, data, out, World())
    with open_session([run], run.world) as session:
        code = session.train(run)
    if code != 0:
        raise SystemExit(code)


def read_lines(run_dir: Path, tag: str) -> list[float]:
    """Return the values of a metric, in the order of the steps."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[tag] for line in lines if tag in line]


def last_weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """Return the fp32 weights of the newest checkpoint."""
    trained = TrainedRun.open(run_dir, "latest")
    weights = {}
    with FragmentReader(trained.checkpoint.tensor_files) as reader:
        for name, shape in trained.checkpoint.manifest["parameters"].items():
            weights[name] = torch.empty(shape)
            reader.read_into(WEIGHT, name, 0, weights[name].view(-1))
    return weights


def main() -> None:
    """Train, compare and report; exit with code 1 if a comparison fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("stage", type=int)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        straight, stopped = Path(directory, "straight"), Path(directory, "stopped")
        for out, steps in ((straight, STEPS), (stopped, STEPS // 2), (stopped, STEPS)):
            case = make_case(options.precision, options.stage, steps, tiny=options.tiny)
            train(case, options.data, out)
        assert list_checkpoints(stopped)
        ours, theirs = last_weights(straight), last_weights(stopped)
        losses, valid = read_lines(straight, "loss/train"), read_lines(straight, "loss/valid")
        again = evaluate(TrainedRun.open(straight, "latest"), options.data)["loss/valid"]
    checks = {
        "learns": valid[-1] < valid[0],
        "resumes bit-exact": all(weight.equal(theirs[name]) for name, weight in ours.items()),
        "evaluates alike": abs(again - valid[-1]) <= ROUNDING * valid[-1],
    }
    report({"losses": losses, "valid": valid, "evaluated": again, "checks": checks})
    raise SystemExit(not all(checks.values()))


if __name__ == "__main__":
    main()
