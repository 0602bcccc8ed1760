"""Writes TensorBoard event files, and truncates them on resume.

It uses TensorBoard's own record format, without torch or TensorFlow.
"""

import os
import socket
import struct
import time
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

__all__ = ["EventFile"]


class EventFile:
    """One TensorBoard event file, written record by record, without a thread that hides errors.

    Readers read the files of a directory in the order of their names. So the name of a new file
    must sort last, even if this machine's clock is behind.
    """

    def __init__(self, directory: Path, resume_step: int) -> None:
        """Truncate the files in the directory to `resume_step`, and open a new one.

        Raises:
            OSError: The file system is full or failed.
        """
        directory.mkdir(exist_ok=True)
        last = 0
        for path in sorted(directory.glob("events.out.tfevents.[0-9]*.*")):
            last = max(last, int(path.name.split(".")[3]))
            _cut_events(path, resume_step)
        stamp = max(int(time.time()), last + 1)
        name = f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter((directory / name).open("xb", buffering=0))
        self.add(Event(file_version="brain.Event:2"))
        # A running TensorBoard has already read the removed events: this record makes it drop them.
        start = resume_step + 1 if resume_step else 0
        self.add(Event(step=start, session_log=SessionLog(status=SessionLog.START)))

    def add(self, event: Event) -> None:
        """Write a record with the current time.

        Raises:
            OSError: The file system is full or failed.
        """
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Flush and close the file.

        Raises:
            OSError: The file system is full or failed.
        """
        self._records.close()


def _cut_events(path: Path, resume_step: int) -> None:
    """Truncate an event file before its first record of a later step; delete it if the step is 0.

    A START record alone is not enough, because TensorBoard's default loader ignores it. Steps in a
    file never decrease, so the records to keep are a prefix of the file.
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
    """The next record (length, CRC, bytes, CRC), or None at the end or at a truncated one."""
    length = _checked(events.read(12), 8)
    if length is None:
        return None
    size = int.from_bytes(length, "little")
    record = _checked(events.read(size + 4), size)
    return None if record is None else Event.FromString(record)


def _checked(content: bytes, size: int) -> bytes | None:
    """The first `size` bytes if the CRC after them matches, else None."""
    crc = content[size:]
    return content[:size] if crc == struct.pack("<I", masked_crc32c(content[:size])) else None
