"""Logs metrics to `metrics.jsonl`, and the same scalars to TensorBoard.

`metrics.jsonl` has one flat JSON object per line. Each line is written immediately, so a crash
loses at most one line. Lines that a full disk rejects are kept in memory and written later. On
resume, both outputs are truncated to the checkpoint's step, so no step is logged twice. A log point
takes 0.1 ms.
"""

import contextlib
import json
import logging
import math
import numbers
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb

from bertds.io.atomic import atomic_write
from bertds.tracking.event_file import EventFile

logger = logging.getLogger("bertds")

__all__ = ["MetricsLog", "last_value", "read_metrics"]


class MetricsLog:
    """Appends log points to `metrics.jsonl` and to the event files in `tb/` of a run directory.

    Attributes:
        seconds: `seconds` in the last line kept on resume, from which a resumed run counts on; 0.0
            for a new run.
        cpu_seconds: The same of `cpu_seconds`.
    """

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        """Truncate both outputs to `resume_step`, and open them for appending.

        Args:
            run_dir: The run directory, created if missing.
            resume_step: The step of the checkpoint that the run resumes from. At 0, all earlier
                content is deleted.

        Raises:
            ValueError: A line of `metrics.jsonl` other than the last is invalid.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        kept = _truncate_metrics(path, resume_step)
        self.seconds, self.cpu_seconds = (
            last_value(kept, key) for key in ("seconds", "cpu_seconds")
        )
        self._step = resume_step
        self._lines = _LineWriter(path)
        self._events: EventFile | None = None
        try:
            self._events = EventFile(run_dir / "tb", resume_step)
        except OSError as error:
            self._drop_events(error)

    def log(self, values: Mapping[str, float | int]) -> None:
        """Write one log point: "step" and any metrics. NaN and infinities become null."""
        self._step = int(values["step"])
        line = {key: _json_number(value) for key, value in values.items()}
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False))
        scalars = [
            Summary.Value(tag=key, simple_value=float(value))
            for key, value in values.items()
            if key != "step"
        ]
        self.show(Summary(value=scalars))

    def sync(self) -> None:
        """Flush all lines to disk, including rejected ones if the disk has room now."""
        self._lines.sync()

    def text(self, tag: str, markdown: str) -> None:
        """Add a text to TensorBoard, but not to `metrics.jsonl`, at the last logged step."""
        self.show(text_pb(tag, markdown))

    def show(self, summary: Summary) -> None:
        """Add a summary to TensorBoard at the last logged step."""
        if self._events is None:
            return
        try:
            self._events.add(Event(step=self._step, summary=summary))
        except OSError as error:
            self._drop_events(error)

    def close(self) -> None:
        """Flush and close both outputs."""
        self._lines.close()
        if self._events is None:
            return
        try:
            self._events.close()
        except OSError as error:
            self._drop_events(error)

    def _drop_events(self, error: OSError) -> None:
        """Warn once, and write no more events: they are not worth ending the run."""
        self._events = None
        logger.warning(
            "TensorBoard events cannot be written (%s): training continues without them, "
            "metrics.jsonl has all metrics",
            error,
        )


class _LineWriter:
    """Appends lines to a file, and keeps lines that a full disk rejects until it has room."""

    def __init__(self, path: Path) -> None:
        self._path, self._pending = path, b""
        self._file = path.open("ab", buffering=0)
        self._has_warned = False

    def write(self, line: str) -> None:
        self._pending += f"{line}\n".encode()
        self.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
        if self._pending:
            logger.error("%s lacks its last lines: %s", self._path, self._pending.decode())

    def sync(self) -> None:
        self.flush()
        with contextlib.suppress(OSError):  # flush has warned of a full disk
            os.fsync(self._file.fileno())

    def flush(self) -> None:
        try:
            while self._pending:
                # A disk may accept part of a line; the rest must follow it.
                self._pending = self._pending[self._file.write(self._pending) :]
            self._has_warned = False
        except OSError as error:
            if not self._has_warned:
                logger.warning(
                    "%s cannot be written (%s); its lines are kept until there is room",
                    *(self._path, error),
                )
            self._has_warned = True


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the lines of `metrics.jsonl` in file order; null becomes NaN.

    A truncated last line is ignored: a run may be writing it, or may have been killed while it did.
    A missing file has no lines.

    Raises:
        ValueError: Another line is not a flat JSON object of numbers with a "step".
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    *complete, last = text.split(b"\n")
    lines = [
        _parse_line(path, number, line)
        for number, line in enumerate(complete, start=1)
        if line.strip()
    ]
    with contextlib.suppress(ValueError):
        lines.append(_parse_line(path, len(complete) + 1, last))
    return lines


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, float]:
    try:
        values = json.loads(line)
        # One string per key, shared by up to a hundred thousand lines, halves the memory.
        metrics = {sys.intern(k): math.nan if v is None else v for k, v in values.items()}
        if not all(isinstance(value, int | float) for value in metrics.values()):
            raise TypeError
        int(metrics["step"])
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ValueError(
            f"{path}: line {number} is not a flat JSON object of numbers with a step: delete the "
            "line, or restore the file from a copy"
        ) from None
    return metrics


def _truncate_metrics(path: Path, resume_step: int) -> list[dict[str, float]]:
    """Keep the lines up to `resume_step` (none for 0) in the file, and return them."""
    if resume_step == 0:
        path.unlink(missing_ok=True)
        return []
    kept = [line for line in read_metrics(path) if line["step"] <= resume_step]
    with atomic_write(path) as out:
        for line in kept:
            content = json.dumps({key: _json_number(value) for key, value in line.items()})
            out.write(f"{content}\n".encode())
    return kept


def last_value(lines: list[dict[str, float]], key: str) -> float:
    """The last value of a metric; 0 if no line has it."""
    return next((line[key] for line in reversed(lines) if key in line), 0.0)


def _json_number(value: float) -> float | int | None:
    """A number that JSON can hold: NumPy scalars as Python numbers, NaN and infinities as None."""
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
