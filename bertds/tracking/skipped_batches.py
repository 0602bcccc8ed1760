"""Records skipped steps in `bad_steps.jsonl`: a non-finite loss or gradient, or a loss spike.

A skipped step leaves weights, moments and schedule unchanged, and the data position advances. Each
line is a JSON object that names the sequences of the batch, so that their texts can be inspected:

    {"step": 812, "loss": "nan", "sequences": [{"set": "ko", "pass": 3, "ordinals": [17, 4, …]}, …]}
    {"step": 950, "spike": {"step": 953, "loss": 9.7}, "sequences": […]}

`pass` is the epoch over the dataset, and `ordinals` are sequence indices in the dataset.
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bertds.io.atomic import atomic_write

logger = logging.getLogger("bertds")

NAME = "bad_steps.jsonl"


class SkippedBatchLog:
    """Appends to a run's `bad_steps.jsonl`."""

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        """Remove the lines after the step that the run resumes from, and a truncated last line.

        Raises:
            ValueError: A line is not a JSON object with a step.
        """
        self._path = run_dir / NAME
        if self._path.is_file():
            *complete, _ = self._path.read_bytes().split(b"\n")
            kept = [line for line in complete if _step_of(self._path, line) <= resume_step]
            with atomic_write(self._path) as file:
                file.writelines(line + b"\n" for line in kept)

    def write(
        self, step: int, reason: dict[str, Any], origins: Iterable[tuple[str, int, int]]
    ) -> None:
        """Append one step.

        Args:
            step: The skipped optimizer step, from 1.
            reason: The loss summed over the batch, or the loss spike.
            origins: Dataset name, epoch and sequence index of each sequence of the batch.
        """
        indices: dict[tuple[str, int], list[int]] = {}
        for name, epoch, index in origins:
            indices.setdefault((name, epoch), []).append(index)
        sequences = [
            {"set": name, "pass": epoch, "ordinals": ordinals}
            for (name, epoch), ordinals in indices.items()
        ]
        line = json.dumps({"step": step, **reason, "sequences": sequences}, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            logger.error(
                "%s cannot be written (%s); it lacks the line: %s", self._path, error, line
            )


def _step_of(path: Path, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} has a line that is not a JSON object with a step ({error}): delete the line"
        ) from error
