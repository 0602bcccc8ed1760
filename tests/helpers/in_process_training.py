"""Whole runs in the process of the tests, without a launcher."""

import json
from pathlib import Path
from typing import Any

import torch

from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.training.session import Session
from bertds.training.setup import prepare_run

BASE: dict[str, Any] = {
    "train_batch_size": 32,
    "gradient_clipping": 1.0,
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 2e-3, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01},
    },
    "scheduler": {
        "type": "WarmupCosineLR",
        "params": {"warmup_num_steps": 4, "warmup_type": "linear", "total_num_steps": 12},
    },
    "zero_optimization": {"stage": 1},
    "bertds": {
        "model": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 64,
        },
        "data": {
            "train": [{"name": "ko", "weight": 2}, {"name": "en"}],
            "valid": {"ko": {"name": "ko", "fraction": 0.1}},
            "seq_len": 64,
        },
        "run": {
            "max_steps": 12,
            "log_every": 1,
            "eval_every": 6,
            "save_every": 4,
            "max_micro_batch_size": 16,
        },
    },
}


def train_here(data: Path, out: Path, device: torch.device, settings: str = "") -> int:
    """Train the base case into out/case/main; returns the exit code, or raises."""
    path = out / "case.json"
    out.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(BASE))
    run = prepare_run(read_case(path, "main", settings), data, out / "case" / "main", World())
    return Session(World(), device).train(run)
