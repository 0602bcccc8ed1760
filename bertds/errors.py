"""Exit codes, and the exceptions that end a program with one of them.

An exception whose class has a `code` is reported to the user as one message, without a traceback.
"""

import errno
from collections.abc import Sequence
from enum import IntEnum

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of the system for a full disk, a full quota, and a file that is larger than allowed."""


class ExitCode(IntEnum):
    """What a program ends with; job files and supervisors rely on these numbers."""

    SUCCESS = 0
    """The command did its work; all steps of a training are done."""
    UNEXPECTED = 1
    """An error that no message was written for; a traceback precedes it."""
    CONFIG = 2
    """A mistake in the case file, the flags or the machine: correct it, then run again."""
    DATA = 3
    """A damaged or missing shard set, or a URL that cannot be read."""
    CHECKPOINT = 4
    """A checkpoint that cannot be written, read or trusted."""
    RANK_FAILURE = 70
    """A rank hung or failed: run the same command again to resume."""
    NON_FINITE = 71
    """Losses, gradients or weights are NaN or infinite."""
    PREEMPTED = 75
    """Stopped before the end, with a checkpoint: run the same command again to resume."""
    INTERRUPTED = 130
    """Interrupted by Ctrl-C, without a checkpoint."""


RESUMABLE = (ExitCode.RANK_FAILURE, ExitCode.PREEMPTED)
"""Codes after which the same command resumes the run."""


class ConfigError(ValueError):
    """A case file, or a `--set`, that cannot be trained."""

    code = ExitCode.CONFIG


class ProblemsError(ConfigError):
    """Several mistakes in one file; the message has a line for each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        super().__init__("\n  ".join([f"{where}: {len(problems)} problems", *problems]))


class DeviceError(ConfigError):
    """This machine lacks what the case asks for; other machines may have it."""


class RunLockedError(ValueError):
    """Another job uses the run directory."""

    code = ExitCode.CONFIG


class PortError(ConnectionError):
    """The rendezvous port is taken."""

    code = ExitCode.CONFIG


class OutOfMemoryError(OSError):
    """This process has no memory left."""

    code = ExitCode.CONFIG


class ShardError(ValueError):
    """A shard set that is damaged, incomplete or of another format."""

    code = ExitCode.DATA


class RemoteError(ValueError):
    """A file behind a URL cannot be read."""

    code = ExitCode.DATA


class RemoteFileNotFoundError(RemoteError):
    """There is no such file."""


class RemoteChecksumError(RemoteError):
    """The file differs from its checksum each time it is fetched."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or trusted."""

    code = ExitCode.CHECKPOINT


class CheckpointWriteError(CheckpointError):
    """A checkpoint that could not be written; earlier checkpoints are unharmed."""


class NonFiniteError(ValueError):
    """Too many steps in a row, or the weights, are NaN or infinite; the last checkpoint is good."""

    code = ExitCode.NON_FINITE


class PeerLostError(ConnectionError):
    """A collective failed: another rank ended, hangs, or cannot be reached."""

    code = ExitCode.RANK_FAILURE


class LostWorkersError(ChildProcessError):
    """The worker processes are gone: run the same command again to resume."""

    code = ExitCode.RANK_FAILURE


COLLECTIVE_ERRORS = (ConfigError, CheckpointError, NonFiniteError)
"""Errors that every rank raises alike, so that no rank waits for another."""


def exit_code_of(error: BaseException) -> int:
    """The error's own `code`; 2 for other errors of the user's input; 1 for the rest."""
    code = getattr(error, "code", None)
    if isinstance(code, int):
        return code
    return ExitCode.CONFIG if isinstance(error, ValueError | OSError) else ExitCode.UNEXPECTED
