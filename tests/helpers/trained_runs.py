"""Short runs of every preset, precision and world size, trained once per test session."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertds import cli
from bertds.__main__ import COMMANDS
from tests.helpers.launching import run

BF16 = {"bf16": {"enabled": True}}
CASE: dict[str, Any] = {
    "train_batch_size": 32,
    "gradient_clipping": 1.0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 5e-3, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01},
    },
    "bertds": {
        "title": "Short runs",
        "model": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "initializer_range": 0.1,
        },
        "data": {
            "train": [{"name": "ko", "weight": 2}, {"name": "en", "fraction": 0.5}],
            "valid": {"some": {"name": "ko", "fraction": 0.37}, "en": {"name": "en"}},
            "seq_len": 64,
        },
        "masking": {"ratio": 0.2, "seed": 7},
        "run": {
            "max_steps": 6,
            "seed": 3,
            "log_every": 3,
            "eval_every": 3,
            "save_every": 3,
            "keep_last": 9,
            "max_micro_batch_size": 24,
        },
    },
}


def arm(preset: str, stage: int, **changes: Any) -> dict[str, Any]:
    model: dict[str, Any] = {"preset": preset, **changes.pop("model", {})}
    if preset == "modernbert":
        model |= {"local_attention": 8, "max_position_embeddings": 64}
    return {"zero_optimization": {"stage": stage}, "bertds": {"model": model}, **changes}


# World size (0: one process without a launcher) to arms.
ARMS = {
    0: {
        "bert": arm("bert", 0),
        "prenorm_bf16": arm("bert-prenorm", 1, **BF16),
        "modernbert_bf16": arm("modernbert", 0, **BF16),
    },
    2: {
        "prenorm_of_two": arm("bert-prenorm", 2),
        "bert_bf16_of_two": arm("bert", 1, model={"positions": "sinusoidal"}, **BF16),
        "modernbert_bf16_of_two": arm("modernbert", 3, **BF16),
    },
}
NAMES = [name for arms in ARMS.values() for name in arms]


def run_dirs_in(directory: Path) -> dict[str, Path]:
    """The run directories by name."""
    return {
        name: directory / "runs" / f"case{processes}" / name
        for processes, arms in ARMS.items()
        for name in arms
    }


def train_all(data_root: Path, directory: Path) -> None:
    """Train all arms into `directory/runs`."""
    for processes, arms in ARMS.items():
        path = directory / f"case{processes}.json"
        path.write_text(json.dumps({**CASE, "bertds": {**CASE["bertds"], "arms": arms}}))
        out = directory / "runs"
        flags = ["--ds_config", str(path), "--data", str(data_root), "--out", str(out)]
        code, output = run(processes, *flags, launcher="spawn")
        assert code == 0, output


def bertds_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python -m bertds` with these arguments."""
    code = cli.run("python -m bertds", COMMANDS, [str(argument) for argument in arguments])
    return code, *capsys.readouterr()
