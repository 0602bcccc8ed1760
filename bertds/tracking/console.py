"""Console and file logging: rank 0 says what happens, every rank says what goes wrong."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from bertds.distributed.world import World

_FORMAT = "%(asctime)s %(levelname)s {rank}%(message)s"


class _BesideProgressBar(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # a full disk, or a reader that is gone
            tqdm.write(self.format(record), file=sys.stderr)


class _RunLog(logging.FileHandler):
    """A file that may lose lines on a full disk: the console has them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing: each line would be a stack trace."""


def set_up(world: World) -> logging.Logger:
    """The project's logger, `bertds`, writing to standard error."""
    logger = logging.getLogger("bertds")
    logger.setLevel(logging.INFO if world.is_main else logging.ERROR)
    logger.propagate = False
    logger.handlers = [_with_format(_BesideProgressBar(), world)]
    return logger


@contextlib.contextmanager
def log_to_file(path: Path, world: World) -> Iterator[None]:
    """Append everything that is logged to a file as well."""
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
