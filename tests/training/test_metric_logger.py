"""The lines that tell in the log how training goes."""

import logging
import math
from pathlib import Path

import pytest
import torch

from bertds.training.metric_logger import progress_line
from tests.helpers.in_process_training import train_here
from tests.helpers.launching import lines_of


def test_each_log_point_is_a_line_of_the_log(
    data_root: Path, tmp_path: Path, device: torch.device, told: pytest.LogCaptureFixture
) -> None:
    """At each `log_every` and at the end, with the values of metrics.jsonl, and nowhere else."""
    told.set_level(logging.INFO, logger="bertds")
    assert train_here(data_root, tmp_path, device, "run.log_every=5") == 0
    run_dir = tmp_path / "case" / "main"
    log = (run_dir / "train.log").read_text().splitlines()
    logged = [line.split("INFO ")[1] for line in log if "tokens/s" in line]
    points = [line for line in lines_of(run_dir) if "loss/train" in line]
    assert [point["step"] for point in points] == [5, 10, 12]
    for line, point in zip(logged, points, strict=True):
        assert line.startswith(f"step {point['step']} of 12: {progress_line(point, math.nan)}, ")
        assert line.endswith(" left")
    assert logged[-1].endswith("0:00:00 left")


def test_a_line_without_rate_and_time() -> None:
    """An engine that has made no step yet has neither a rate nor a speed."""
    metrics = {"loss/train": 2.34567, "acc/train": 0.5}
    assert progress_line(metrics, math.nan) == "loss 2.3457, accuracy 0.5000"
    assert progress_line(metrics, 93_784.4).endswith("1 day, 2:03:04 left")
