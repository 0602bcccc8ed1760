"""TensorBoard's event files of a run, written record by record and cut on resume.

TensorBoard's own records are used without torch or TensorFlow.
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
    """One TensorBoard event file, written record by record (no thread, so a fault is seen).

    Readers take the files of a directory in the order of their names and hide what a later file
    sets back, so a new file's name must sort last, whatever the clock of this machine says.
    """

    def __init__(self, directory: Path, resume_step: int) -> None:
        """Cuts what stands in the directory to `resume_step`, and opens a new file.

        Raises:
            OSError: The file system does not take it.
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
        # A TensorBoard that is already open has read what was cut: this makes it forget it.
        start = resume_step + 1 if resume_step else 0
        self.add(Event(step=start, session_log=SessionLog(status=SessionLog.START)))

    def add(self, event: Event) -> None:
        """Writes a record, stamped with the time.

        Raises:
            OSError: The file system does not take it.
        """
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def close(self) -> None:
        """Flushes and closes the file.

        Raises:
            OSError: The file system does not take it.
        """
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
