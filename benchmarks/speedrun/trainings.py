"""Trains one run of either program, up to the models at its marks."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.peer_venvs import peer_python
from benchmarks.speedrun.data import SpeedrunData
from benchmarks.speedrun.setting import CASE, MARKS, PEER_SIZES, ROOT, SEQ_LEN, PeerRecipe
from bertds.huggingface.config import read_json
from bertds.inference.export import export
from bertds.runs.case_file import read_case
from bertds.runs.trained_run import TrainedRun
from bertds.tracking.jsonl import read_metrics

_ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A finished run."""

    parameters: int
    marks: list[dict[str, Any]]
    """Step, core minutes, tokens and the directory of the model."""
    versions: dict[str, str]


def train_ours(arm: str, settings: str, seed: int, data: SpeedrunData, out: Path) -> Trained:
    """Train an arm of ds_configs/speedrun.json in one process with one thread, and export the marks."""
    settings = ",".join(filter(None, [settings, f"run.seed={seed}"]))
    steps = read_case(CASE, arm, settings).bertds.run.max_steps
    every = steps // MARKS
    settings += f",run.save_every={every},run.keep_every={every},run.log_every={every}"
    command = [sys.executable, "launch/train.py", f"--ds_config={CASE}", f"--arm={arm}"]
    command += [f"--data={data.shards}", f"--out={out}", f"--set={settings}"]
    _run(command, out / "train.log")
    run_dir = out / CASE.stem / arm
    metrics = read_metrics(run_dir / "metrics.jsonl")
    lines = {line["step"]: line for line in metrics if "lr" in line}  # not those of validations
    marks = []
    for step in range(every, steps + 1, every):
        model = out / "marks" / str(step)
        trained = TrainedRun.open(run_dir, str(step))
        if not model.exists():
            export(trained, model)
        minutes = lines[step]["cpu_seconds"] / 60
        marks.append({"step": step, "core_minutes": minutes, "tokens": lines[step]["tokens"]})
    return Trained(
        parameters=trained.metadata["parameters"], marks=marks, versions=trained.versions
    )


def train_peer(recipe: PeerRecipe, seed: int, data: SpeedrunData, out: Path) -> Trained:
    """Train with transformers' Trainer, in an environment of its own, with one thread."""
    content = asdict(recipe) | {"seq_len": SEQ_LEN, "marks": MARKS, "sizes": PEER_SIZES}
    if not (out / "marks.json").is_file():
        worker = str(ROOT / "benchmarks" / "speedrun" / "peer.py")
        command = [peer_python("transformers"), worker, str(data.directory), str(out)]
        _run([*command, json.dumps(content), str(seed)], out / "train.log")
    found = read_json(out / "marks.json")
    return Trained(parameters=found["parameters"], marks=found["marks"], versions=found["versions"])


def _run(command: list[str], log: Path) -> None:
    """Run a training; its output goes to a file.

    Raises:
        SystemExit: It fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        code = subprocess.run(
            command, check=False, cwd=ROOT, env=_ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if code:
        raise SystemExit(f"{' '.join(command)} failed with code {code}: see {log}")
