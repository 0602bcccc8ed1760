"""Scores a model directory: loss on one fixed set of masks, and accuracy on a downstream task.

Both programs are scored by the same code: bertds reads the exported class, transformers' Trainer fine-tunes
it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speedrun.data import SpeedrunData
from benchmarks.speedrun.setting import FINETUNING, ROOT
from bertds.inference.evaluate import open_model_evaluation


@dataclass(frozen=True, slots=True)
class Task:
    """A text classification: two files with the columns `sentence` and `label`."""

    train: Path
    valid: Path


def loss_of(model: Path, data: SpeedrunData) -> float:
    """Validation loss in nats: 15 % of the tokens, the same masks for every model."""
    metrics = open_model_evaluation(model, data.shards, "speedrun/valid").metrics()
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
    found = json.loads((out / "finetune" / "task.json").read_text())
    accuracy: float = found["best"]["accuracy"]["mean"]
    return accuracy
