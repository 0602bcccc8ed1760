"""The speedrun: processor minutes until a loss and until a downstream accuracy, ours and a tuned peer's.

python -m benchmarks.speedrun --train F --valid F --task_train F --task_valid F [--all]
    [--data data/speedrun] [--out runs/speedrun] [--side_by_side 2]

--train and --valid are texts with a sequence on each line, the task's files have the columns `sentence`
and `label`. Two runs train side by side, each in one process with one thread. A run whose figures are in
benchmarks/speedrun/runs is skipped, so the same command goes on after an interruption. At the end it writes
the tables and plots.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.tables import describe_machine
from benchmarks.speedrun.data import SpeedrunData
from benchmarks.speedrun.publish import publish
from benchmarks.speedrun.score import Task, accuracy_of, loss_of
from benchmarks.speedrun.setting import (
    CASE,
    COMPARISON,
    PEER_DEFAULT,
    PEER_TUNED,
    RUNS,
    Run,
    all_runs,
)
from benchmarks.speedrun.trainings import Trained, train_ours, train_peer
from bertds.config.case import list_arms, read_content
from bertds.io.json_files import write_json


def main() -> None:
    """Train and score what is missing, then publish."""
    options = _options()
    data = SpeedrunData.make(options.data.resolve(), options.train, options.valid)
    task = Task(options.task_train.resolve(), options.task_valid.resolve())
    ablations = [arm.name for arm in list_arms(CASE) if arm.name != "best"]
    wanted = all_runs(ablations) if options.all else list(COMPARISON)
    missing = [run for run in wanted if not (RUNS / f"{run.name}.json").exists()]
    out = options.out.resolve()
    with ThreadPoolExecutor(options.side_by_side) as pool:
        for run, content in zip(
            missing, pool.map(lambda run: figures(run, data, task, out), missing), strict=True
        ):
            RUNS.mkdir(exist_ok=True)
            write_json(RUNS / f"{run.name}.json", content)
            print(f"{run.name}: {content['marks'][-1]}", flush=True)
    publish()


def figures(run: Run, data: SpeedrunData, task: Task, out: Path) -> dict[str, Any]:
    """Train a run and score its models; a tuning trial only by its last loss."""
    directory = out / run.name
    trained = _train(run, data, directory)
    for mark in trained.marks if run.rate is None else trained.marks[-1:]:
        model = directory / "marks" / str(mark["step"])
        mark["loss"] = loss_of(model, data)
        if run.rate is None:
            mark["accuracy"] = accuracy_of(model, task, model)
    return {
        "program": run.program,
        "arm": run.arm,
        "seed": run.seed,
        "rate": run.rate,
        "parameters": trained.parameters,
        "marks": trained.marks,
        "versions": trained.versions,
        "machine": describe_machine(),
    }


def _train(run: Run, data: SpeedrunData, directory: Path) -> Trained:
    if run.program == "peer":
        recipe = {"default": PEER_DEFAULT, "tuned": PEER_TUNED}[run.arm]
        if run.rate is not None:
            recipe = replace(recipe, rate=run.rate, steps=recipe.steps // 4)
        return train_peer(recipe, run.seed, data, directory)
    settings = ""
    if run.rate is not None:
        steps = read_content(CASE, run.arm)["bertds"]["run"]["max_steps"]
        settings = f"optimizer.params.lr={run.rate:g},run.max_steps={steps // 4}"
    return train_ours(run.arm, settings, run.seed, data, directory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speedrun",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("train", "valid", "task_train", "task_valid"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("data/speedrun"))
    parser.add_argument("--out", type=Path, default=Path("runs/speedrun"))
    parser.add_argument("--side_by_side", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
