"""Scores a model directory: loss on one fixed set of masks, and accuracy on a downstream task.

Both programs are scored by the same code: bertds reads the exported class, transformers' Trainer fine-tunes
it.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speedrun.data import SpeedrunData
from benchmarks.speedrun.setting import FINETUNING, ROOT
from bertds.config.schema import MaskingConfig
from bertds.inference.evaluate import open_model_evaluation
from bertds.runs.downstream_scores import read_scores, spread_of


@dataclass(frozen=True, slots=True)
class Task:
    """A text classification: two files with the columns `sentence` and `label`."""

    train: Path
    valid: Path


def loss_of(model: Path, data: SpeedrunData) -> float:
    """Validation loss in nats: 15 % of the tokens, the same masks for every model."""
    masking = MaskingConfig(ratio=0.15)
    metrics = open_model_evaluation(model, data.shards, "speedrun/valid", masking).metrics()
    return metrics["loss/valid"]


def accuracy_of(model: Path, task: Task, out: Path) -> float:
    """Accuracy of the fine-tuned model, the mean over seeds at the best rate."""
    command = [
        sys.executable,
        "-m",
        "bertds",
        "finetune",
        str(model),
        "--name=task",
        f"--out={out}",
    ]
    command += [f"--train={task.train}", f"--valid={task.valid}", "--kind=classification"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, *FINETUNING], check=True, cwd=ROOT, env=environment)
    best = read_scores(out / "finetune" / "task.json").best()
    return spread_of(best, "accuracy")[0]
