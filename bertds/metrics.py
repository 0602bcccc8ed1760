"""The figures of a run: `metrics.jsonl`, the same scalars for TensorBoard, tokens/s and MFU.

`metrics.jsonl` holds one flat JSON object a line, and each line is written at once, so a run that
dies loses at most the line under way; what a full disk does not take is kept and written later. On resume both files are cut to the checkpoint's
step: no step stands there twice and none from a lost future. TensorBoard's own records are used
without torch or TensorFlow. A log point costs 0.1 ms.
"""

import contextlib
import json
import logging
import math
import numbers
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from bertds.replacing import replacing

__all__ = [
    "MetricsLog",
    "Throughput",
    "mfu",
    "model_flops_per_token",
    "peak_flops",
    "read_metrics",
]

logger = logging.getLogger("bertds")

# Dense bf16 peaks (fp16 on V100) in FLOP/s from the vendors' data sheets, by the device name that
# the driver gives. Variants with other peaks (PCIe, NVL, laptop, a MIG slice) are not matched.
PEAK_FLOPS = {
    r"(NVIDIA )?A100[- ](?!.*MIG).*": 312e12,
    r"(NVIDIA )?H100( 80GB HBM3|.*SXM\S*)": 989e12,
    r"NVIDIA H200( 141GB HBM3e|.*SXM\S*)?": 989e12,
    r"NVIDIA L4": 121e12,
    r"(NVIDIA |Tesla )?V100-SXM\S*": 125e12,
    r"NVIDIA GeForce RTX 4090": 165e12,
    r"NVIDIA B200": 2250e12,
}


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
        self._events: _EventFile | None = None
        try:
            self._events = _EventFile(run_dir / "tb", resume_step)
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
        self._add(Summary(value=scalars))

    def flush(self) -> None:
        """Writes the lines that a full disk has refused, if there is room by now."""
        self._lines.flush()

    def text(self, tag: str, markdown: str) -> None:
        """Shows a text in TensorBoard at the last logged step; `metrics.jsonl` does not hold it."""
        self._add(text_pb(tag, markdown))

    def close(self) -> None:
        """Flushes and closes both; the log takes no more points."""
        self._lines.close()
        if self._events is None:
            return
        try:
            self._events.close()
        except OSError as error:
            self._drop_events(error)

    def _add(self, summary: Summary) -> None:
        if self._events is None:
            return
        try:
            self._events.add(Event(step=self._step, summary=summary))
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
    with replacing(path) as out:
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


class _EventFile:
    """One TensorBoard event file, written record by record (no thread, so a fault is seen).

    Readers take the files of a directory in the order of their names and hide what a later file
    sets back, so a new file's name must sort last, whatever the clock of this machine says.
    """

    def __init__(self, directory: Path, resume_step: int) -> None:
        directory.mkdir(exist_ok=True)
        last = 0
        for path in sorted(directory.glob("events.out.tfevents.[0-9]*.*")):
            last = max(last, int(path.name.split(".")[3]))
            _cut_events(path, resume_step)
        stamp = max(int(time.time()), last + 1)
        name = f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((directory / name).open("xb", buffering=0))
        self.add(Event(file_version="brain.Event:2"))
        # A TensorBoard that is already open has read what was cut: this makes it forget it.
        start = resume_step + 1 if resume_step else 0
        self.add(Event(step=start, session_log=SessionLog(status=SessionLog.START)))

    def add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        self._records.close()


def _cut_events(path: Path, resume_step: int) -> None:
    """Cuts an event file before its first record of a later step (all of it for 0).

    A START record alone does not do: TensorBoard's default loader takes no notice of it. The steps
    of a file only grow, so what is kept is a prefix and its bytes stay as they are.
    """
    if resume_step == 0:
        path.unlink()
        return
    with path.open("r+b") as events:
        end = 0
        while (event := _next_event(events)) is not None and event.step <= resume_step:
            end = events.tell()
        events.truncate(end)


def _next_event(events: BinaryIO) -> Event | None:
    """The next record (length, crc, bytes, crc), or None at the end or at a torn one."""
    length = _checked(events.read(12), 8)
    if length is None:
        return None
    size = int.from_bytes(length, "little")
    record = _checked(events.read(size + 4), size)
    return None if record is None else Event.FromString(record)


def _checked(content: bytes, size: int) -> bytes | None:
    """The first `size` bytes if the crc that must follow them agrees."""
    crc = content[size:]
    return content[:size] if crc == struct.pack("<I", masked_crc32c(content[:size])) else None


class Throughput:
    """Tokens per second between two log points, by a clock that is never set back."""

    def __init__(self, tokens: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts to count at `tokens`, the tokens seen so far (not 0 after a resume)."""
        self._clock = clock
        self._tokens, self._time = tokens, clock()

    def restart(self, tokens: int) -> None:
        """Starts a new span here, so that validation or saving before it does not count."""
        self._tokens, self._time = tokens, self._clock()

    def measure(self, tokens: int) -> float:
        """Ends the span at `tokens` seen in all, returns its tokens/s, and starts the next."""
        now = self._clock()
        span, seen = now - self._time, tokens - self._tokens
        self._tokens, self._time = tokens, now
        return seen / span if span > 0 else math.nan


def model_flops_per_token(
    *,
    hidden_size: int,
    num_layers: int,
    intermediate_size: int,
    glu: bool,
    mean_length: float,
    vocab_size: int,
    masked_share: float,
) -> float:
    """The FLOPs that training needs for one real (not padding) token, forward and backward.

    Two per multiply-add; the backward pass is twice the forward one; recomputed activations do not
    count (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; PaLM, arXiv:2204.02311, appendix B).
    A layer's matrices hold 4·D² (attention) and 2·D·F (3·D·F with a gate) weights, attention over n
    positions takes 2·n·D multiply-adds a token. On masked rows only are the head, D² + D·V, and of the
    last layer what comes after its attention (D² and the feed-forward), since the loss needs no
    other. Embedding look-ups, norms, biases and soft-max are left out.

    Args:
        hidden_size: D.
        num_layers: The encoder's layers, all with global attention.
        intermediate_size: F, the width inside the feed-forward (of each half with a gate).
        glu: Whether the feed-forward is gated.
        mean_length: The positions that a token attends to, on average over *tokens*: Σn² / Σn over
            the sequences' lengths n.
        vocab_size: V.
        masked_share: Masked rows per real token, 0 to 1.
    """
    attention = 4 * hidden_size**2 + 2 * mean_length * hidden_size
    feed_forward = (3 if glu else 2) * hidden_size * intermediate_size
    spared = (1 - masked_share) * (hidden_size**2 + feed_forward)
    head = masked_share * hidden_size * (hidden_size + vocab_size)
    return 6.0 * (num_layers * (attention + feed_forward) - spared + head)


def peak_flops(device_name: str) -> float | None:
    """A device's dense bf16 peak in FLOP/s, or None where we do not know the device."""
    for pattern, peak in PEAK_FLOPS.items():
        if re.fullmatch(pattern, device_name):
            return peak
    return None


def mfu(tokens_per_s: float, flops_per_token: float, peak_flops: float) -> float:
    """Model FLOPs utilisation, 0 to 1: what the model needs over what the devices could do.

    Args:
        tokens_per_s: Real tokens of all devices together.
        flops_per_token: As `model_flops_per_token` gives it.
        peak_flops: The sum over all devices, FLOP/s.
    """
    return tokens_per_s * flops_per_token / peak_flops
