"""The figures of a run: `metrics.jsonl`, and the same scalars for TensorBoard.

`metrics.jsonl` holds one flat JSON object a line, and each line is written at once, so a run that
dies loses at most the line under way; what a full disk does not take is kept and written later. On
resume both files are cut to the checkpoint's step: no step stands there twice and none from a lost
future. A log point costs 0.1 ms.
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

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends log points to `metrics.jsonl` and to the event files in `tb/` of a run directory.

    Attributes:
        seconds: The `seconds` of the last line kept on resume (0.0 for a new run): a resumed run
            counts its seconds on from here.
    """

    def __init__(self, run_dir: Path, resume_step: int) -> None:
        """Cuts what stands there to `resume_step` and opens both for appending.

        Args:
            run_dir: The run's directory, made if missing.
            resume_step: The step of the checkpoint that the run continues from; 0 starts anew, and
                nothing that an earlier run left in these files is kept.

        Raises:
            ValueError: If a line of `metrics.jsonl` other than the last is broken.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        kept = _cut_metrics(path, resume_step)
        self.seconds = next((line["seconds"] for line in reversed(kept) if "seconds" in line), 0.0)
        self._step = resume_step
        self._lines = _Lines(path)
        self._events: EventFile | None = None
        try:
            self._events = EventFile(run_dir / "tb", resume_step)
        except OSError as error:
            self._drop_events(error)

    def log(self, values: Mapping[str, float | int]) -> None:
        """Writes one log point; `values` holds "step" and any other figures (NaN becomes null)."""
        self._step = int(values["step"])
        line = {key: _plain(value) for key, value in values.items()}
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False))
        scalars = [
            Summary.Value(tag=key, simple_value=float(value))
            for key, value in values.items()
            if key != "step"
        ]
        self.show(Summary(value=scalars))

    def sync(self) -> None:
        """Puts the lines on disk, also those that it has refused so far, if there is room by now."""
        self._lines.sync()

    def text(self, tag: str, markdown: str) -> None:
        """Shows a text in TensorBoard at the last logged step; `metrics.jsonl` does not hold it."""
        self.show(text_pb(tag, markdown))

    def show(self, summary: Summary) -> None:
        """Adds a summary to TensorBoard at the last logged step."""
        if self._events is None:
            return
        try:
            self._events.add(Event(step=self._step, summary=summary))
        except OSError as error:
            self._drop_events(error)

    def close(self) -> None:
        """Flushes and closes both; the log takes no more points."""
        self._lines.close()
        if self._events is None:
            return
        try:
            self._events.close()
        except OSError as error:
            self._drop_events(error)

    def _drop_events(self, error: OSError) -> None:
        """A curve on a screen is not worth a run: said once, then training goes on without it."""
        self._events = None
        logger.warning(
            "TensorBoard events cannot be written (%s): this run goes on without them, "
            "metrics.jsonl has every figure.",
            error,
        )


class _Lines:
    """Lines appended to a file one by one; those that a full disk refuses wait for the next."""

    def __init__(self, path: Path) -> None:
        self._path, self._waiting = path, b""
        self._file = path.open("ab", buffering=0)
        self._said = False

    def write(self, line: str) -> None:
        self._waiting += f"{line}\n".encode()
        self.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
        if self._waiting:
            logger.error("%s lacks its last lines: %s", self._path, self._waiting.decode())

    def sync(self) -> None:
        self.flush()
        with contextlib.suppress(OSError):  # said where a line is refused
            os.fsync(self._file.fileno())

    def flush(self) -> None:
        try:
            while self._waiting:
                # A disk may take a part of a line; the rest must follow it.
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self._said = False
        except OSError as error:
            if not self._said:
                logger.warning("%s: %s; its lines are kept until there is room", self._path, error)
            self._said = True


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Reads `metrics.jsonl`, in file order; null becomes NaN.

    A torn last line is dropped, for a run may be writing it or have died in it. A missing file
    holds no lines.

    Raises:
        ValueError: If another line is not a flat JSON object of numbers with a "step".
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
        # A key a line, a hundred thousand lines: one string for all of them halves the memory.
        figures = {sys.intern(k): math.nan if v is None else v for k, v in values.items()}
        if not all(isinstance(value, int | float) for value in figures.values()):
            raise TypeError
        int(figures["step"])
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ValueError(
            f"{path}: line {number} is not a flat JSON object of numbers with a step; "
            "delete this line, or take the file from a copy."
        ) from None
    return figures


def _cut_metrics(path: Path, resume_step: int) -> list[dict[str, float]]:
    """Leaves the lines up to `resume_step` (none for 0) in the file, and returns them."""
    if resume_step == 0:
        path.unlink(missing_ok=True)
        return []
    kept = [line for line in read_metrics(path) if line["step"] <= resume_step]
    with atomic_write(path) as out:
        for line in kept:
            content = json.dumps({key: _plain(value) for key, value in line.items()})
            out.write(f"{content}\n".encode())
    return kept


def _plain(value: float) -> float | int | None:
    """A Python number that JSON can hold: NumPy's scalars unwrapped, NaN and infinities as None."""
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        return None
    return number
