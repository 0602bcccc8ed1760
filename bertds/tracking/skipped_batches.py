"""Steps that no process applied: a loss or a gradient of one was not finite, or a loss jumped.

Weights, moments and schedule stay as they were, the data goes on. What the batch was made of stands
in `bad_steps.jsonl`, one JSON object a line, so that a bad text can be looked up:

    {"step": 812, "loss": "nan", "sequences": [{"set": "ko", "pass": 3, "ordinals": [17, 4, …]}, …]}
    {"step": 950, "spike": {"step": 953, "loss": 9.7}, "sequences": […]}
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
        """Cut what stands there to the step that the run goes on from.

        Raises:
            ValueError: A line is no JSON object with a step.
        """
        self._path = run_dir / NAME
        if self._path.is_file():
            _cut(self._path, resume_step)

    def write(
        self, step: int, why: dict[str, Any], origins: Iterable[tuple[str, int, int]]
    ) -> None:
        """Add one step.

        Args:
            step: The optimizer step that was not applied, from 1.
            why: The loss summed over the batch, or the spike for which it was passed over.
            origins: Set, pass over it and ordinal in it of each sequence of the batch.
        """
        found: dict[tuple[str, int], list[int]] = {}
        for name, number, ordinal in origins:
            found.setdefault((name, number), []).append(ordinal)
        sequences = [{"set": n, "pass": p, "ordinals": o} for (n, p), o in found.items()]
        line = {"step": step, **why, "sequences": sequences}
        content = json.dumps(line, ensure_ascii=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{content}\n")
        except OSError as error:
            logger.error("%s: %s; it should hold: %s", self._path, error, content)


def _cut(path: Path, step: int) -> None:
    """Leave the lines up to a step; a torn last line goes as well."""
    *complete, _ = path.read_bytes().split(b"\n")
    kept = [line for line in complete if _step_of(path, line) <= step]
    with atomic_write(path) as file:
        file.writelines(line + b"\n" for line in kept)


def _step_of(path: Path, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} holds a line that is no step ({error}): delete it") from error
