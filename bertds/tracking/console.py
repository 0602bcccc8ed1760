"""Console and file logging: rank 0 logs from level INFO, the other ranks from level ERROR."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from bertds.distributed.world import World

FILE_ONLY = {"beside_bar": True}
"""`extra` of a log line that a terminal does not show, because its progress bar shows the same."""
_FORMAT = "%(asctime)s %(levelname)s {rank}%(message)s"


class _BesideProgressBar(logging.Handler):
    """Prints above the progress bar, without breaking it."""

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "beside_bar") and sys.stderr.isatty():
            return
        with contextlib.suppress(OSError):  # a full disk, or a closed pipe
            tqdm.write(self.format(record), file=sys.stderr)


class _RunLog(logging.FileHandler):
    """A log file that may lose lines on a full disk; the console has all of them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore the error: by default, each lost line prints a traceback."""


def set_up(world: World) -> logging.Logger:
    """Set up the logger `bertds` to write to standard error, and return it."""
    logger = logging.getLogger("bertds")
    logger.setLevel(logging.INFO if world.is_main else logging.ERROR)
    logger.propagate = False
    logger.handlers = [_with_format(_BesideProgressBar(), world)]
    return logger


@contextlib.contextmanager
def log_to_file(path: Path, world: World) -> Iterator[None]:
    """Also append all log lines to a file."""
    logger = logging.getLogger("bertds")
    handler = _with_format(_RunLog(path, encoding="utf-8", delay=True), world)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def _with_format(handler: logging.Handler, world: World) -> logging.Handler:
    rank = "" if world.world_size == 1 else f"[rank {world.rank}] "
    handler.setFormatter(logging.Formatter(_FORMAT.format(rank=rank)))
    return handler
