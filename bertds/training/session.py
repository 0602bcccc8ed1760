"""The one way through a run: what launch/train.py, `bertds.train`, benchmarks and tests share.

    prepare_run (files) -> open_session: lock, process group -> Session.train -> Trainer -> TrainLoop.run_steps

The process group stays joined when a session closes: DeepSpeed can join one only once a process, and
a program may still have to write its report. Leave it with `destroy_process_group`, on all ranks
together, or with `destroy_process_group_at_exit`.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from bertds.distributed.malloc import keep_freed_memory
from bertds.distributed.world import World
from bertds.engine.process_group import all_gather_object, init_process_group
from bertds.errors import COLLECTIVE_ERRORS, ExitCode
from bertds.runs.lock import locked
from bertds.training.preemption import PreemptionSignal, resume_advice
from bertds.training.run_setup import RunSetup
from bertds.training.trainer import Trainer

logger = logging.getLogger("bertds")


@dataclass(frozen=True, slots=True)
class Session:
    """Joined processes that train runs."""

    world: World
    device: torch.device

    def train(self, run: RunSetup, *, profile: bool = False) -> int:
        """Train one run.

        Returns:
            0 when done; 75 when preempted.

        Raises:
            ValueError, OSError: As `Trainer.train`.
        """
        with PreemptionSignal().listening() as preemption:
            return Trainer(run, self.device, preemption, profile).train()

    def train_all(self, runs: Sequence[RunSetup], *, profile: bool = False) -> int:
        """Train one run after the other.

        A run that fails on all ranks alike is logged, and the next one follows. A preemption signal
        ends all, and so does the loss of a rank.

        Returns:
            0 when all are done, 75 when preempted, otherwise the code of the last failure.
        """
        code: int = ExitCode.SUCCESS
        with PreemptionSignal().listening() as preemption:
            for run in runs:
                # A signal may arrive between two runs, and at one rank alone.
                if run is not runs[0] and any(all_gather_object(preemption.is_set())):
                    name = f"{run.case.name}/{run.case.arm}"
                    logger.info("stopped before %s; %s", name, resume_advice(run.world))
                    return ExitCode.PREEMPTED
                try:
                    code = Trainer(run, self.device, preemption, profile).train() or code
                except COLLECTIVE_ERRORS as error:
                    if run.world.is_main:
                        logger.error("%s/%s failed: %s", run.case.name, run.case.arm, error)
                    code = error.code
                if code == ExitCode.PREEMPTED:
                    break
        return code


@contextlib.contextmanager
def open_session(runs: Sequence[RunSetup], world: World) -> Iterator[Session]:
    """Lock the directories of the runs and join the process group; all ranks must call it.

    Args:
        runs: The runs to train, at least one.
        world: The processes.

    Raises:
        RunLockedError: Another job uses a directory.
        PortError: The rendezvous port is taken.
        PeerLostError: Not all ranks joined in time.
    """
    with contextlib.ExitStack() as locks:
        for run in runs if world.is_main else []:
            locks.enter_context(locked(run.run_dir))
        device = init_process_group(world, runs[0].case.bertds.run.collective_timeout_s)
        if device.type == "cpu" and all(run.case.bertds.run.keep_freed_memory for run in runs):
            keep_freed_memory()
        yield Session(world, device)
