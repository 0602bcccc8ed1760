"""The scenario of batch invariance: one small run for every split of a batch over ranks.

A run is trained through the real launcher once per world size, accumulation, ZeRO stage and
precision. Tests compare a few splits, `benchmarks/determinism/batch_invariance.py` all of them.
"""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORLDS, ACCUMULATIONS, STAGES = (1, 2, 4), (1, 2, 4), (0, 1, 2, 3)
PRECISIONS = ("fp32", "bf16")
BATCH = 64
STEPS = 20
FIGURES = ("loss/train", "grad_norm", "loss/valid", "acc/valid")
CASE: dict[str, Any] = {
    "train_batch_size": BATCH,
    "gradient_clipping": 0,
    # Some gradients are zero except for rounding (the bias of the keys). There, an Adam step is a
    # ratio of two noises. This epsilon keeps such steps small.
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 4e-3, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01},
    },
    "scheduler": {"type": "WarmupLinearLR", "params": {"warmup_num_steps": 5}},
    "bertds": {
        "model": {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "max_position_embeddings": 128,
            "hidden_dropout_prob": 0.0,
        },
        "data": {
            "train": [{"name": "train"}],
            "valid": {"valid": {"name": "valid", "fraction": 0.25}},
            "seq_len": 128,
        },
        "run": {"max_steps": STEPS, "log_every": 1, "eval_every": STEPS, "save_every": STEPS},
    },
}


@dataclass(frozen=True, slots=True)
class Split:
    """How one run divides its batches."""

    world_size: int
    accumulation: int
    stage: int
    precision: str

    @property
    def arm(self) -> str:
        """Name of its arm in the case file of its world size."""
        return f"{self.precision}_accumulation{self.accumulation}_zero{self.stage}"

    @property
    def patch(self) -> dict[str, Any]:
        """What its arm changes in the case file."""
        micro = BATCH // self.world_size // self.accumulation
        return {
            "bf16": {"enabled": self.precision == "bf16"},
            "zero_optimization": {"stage": self.stage},
            "bertds": {"run": {"max_micro_batch_size": micro}},
        }


REFERENCES = {precision: Split(1, 1, 0, precision) for precision in PRECISIONS}


def all_splits() -> list[Split]:
    """Return the complete matrix."""
    combinations = itertools.product(WORLDS, ACCUMULATIONS, STAGES, PRECISIONS)
    return [Split(*combination) for combination in combinations]


def make_data(text_dir: Path, root: Path, merges: int = 3000) -> None:
    """Make a tokenizer, a training set and a validation set from `ko.txt` and `en.txt`."""
    tokenizer, texts = root / "tokenizer.json", f"{text_dir}/ko.txt,{text_dir}/en.txt"
    data_prep = [sys.executable, "-m", "data_prep"]
    inputs = ["--input", texts, "--out"]
    flags = ["--merges", str(merges), "--lowercase"]
    _run([*data_prep, "tokenizer", *inputs, str(tokenizer), *flags])
    _run([*data_prep, "shard", *inputs, str(root), "--tokenizer", tokenizer, "--seq_len", "128"])


def train(splits: list[Split], data: Path, out: Path) -> None:
    """Launch once per number of processes; each launch trains its arms one after the other."""
    out.mkdir(parents=True, exist_ok=True)
    deepspeed = shutil.which("deepspeed", path=Path(sys.executable).parent) or "deepspeed"
    for world_size, group in itertools.groupby(splits, key=lambda split: split.world_size):
        path = out / f"world{world_size}.json"
        case = CASE | {"bertds": CASE["bertds"] | {"arms": {s.arm: s.patch for s in group}}}
        path.write_text(json.dumps(case))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher = [deepspeed, f"--num_accelerators={world_size}", f"--master_port={port}"]
        flags = ["--ds_config", path, "--data", data, "--out", out]
        _run([*launcher, ROOT / "launch" / "train.py", *flags])


def _run(command: list[Any]) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        output = f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
        sys.exit(f"{command} exited with code {done.returncode}:\n{output}")


def differences(split: Split, reference: Split, out: Path) -> dict[str, list[float]]:
    """Return the relative differences of each metric, step by step."""
    ours, theirs = _read_metrics(split, out), _read_metrics(reference, out)
    assert ours.keys() == theirs.keys()
    by_metric: dict[str, list[float]] = {name: [] for name in FIGURES}
    for (name, step), value in ours.items():
        by_metric[name].append(abs(value / theirs[name, step] - 1))
    return by_metric


def _read_metrics(split: Split, out: Path) -> dict[tuple[str, int], float]:
    """Return the metrics of a run by name and step."""
    path = out / f"world{split.world_size}" / split.arm / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(name, line["step"]): line[name] for line in lines for name in FIGURES if name in line}
