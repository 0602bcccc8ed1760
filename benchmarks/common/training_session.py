"""The session of a benchmark worker: a run in a temporary directory, open until the process exits."""

import atexit
import contextlib
import tempfile
from pathlib import Path

import torch

from bertds.config.case import Case
from bertds.distributed.world import World
from bertds.training.run_setup import RunSetup
from bertds.training.session import open_session
from bertds.training.setup import prepare_run


def open_until_exit(case: Case, data_root: Path) -> tuple[RunSetup, torch.device]:
    """Prepare a run and join its process group; return the run and the device."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    run = prepare_run(case, data_root, Path(directory, "run"), World())
    return run, stack.enter_context(open_session([run], run.world)).device
