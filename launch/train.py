"""Trains the arms of a case file, one after the other, and writes the report of the case.

    deepspeed launch/train.py --ds_config ds_configs/case11.json [--arm NAME] [--set 'a.b=value,…']

Everything that files alone can tell is checked for all arms before a process group exists. Finished
arms are skipped. An arm that fails is recorded and the next one is tried. A preemption signal ends
all, and so does the loss of a rank.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bertds import cli
from bertds.config.case import select_arms
from bertds.distributed.launcher_guard import terminate_with_launcher
from bertds.distributed.world import World
from bertds.engine.process_group import destroy_process_group
from bertds.errors import DeviceError, ExitCode, exit_code_of
from bertds.runs.sweeps import write_swept_case
from bertds.tracking import console
from bertds.training.case_check import read_cases
from bertds.training.session import open_session
from bertds.training.setup import prepare_runs

_GRACE_S = 10.0


def main(
    ds_config: Path,
    arm: str = "",
    data: str = "data",
    out: Path = Path("runs"),
    set: str = "",
    sweep: str = "",
    profile: bool = False,
) -> int:
    """Train a case.

    Args:
        ds_config: The case file.
        arm: One of its arms; all of them if not given.
        data: Directory or URL that the names of shard sets are relative to.
        out: Directory for <case>/<arm>/.
        set: Changes, as 'a.b=value,…'; values are JSON or plain text, null deletes. May be
            repeated.
        sweep: Values to try, as 'a.b=value|value,c.d=value|value': each arm is replaced by one for
            each point of the grid.
        profile: Write a Chrome trace of a few steps to each run's directory, trace.json.

    Returns:
        0 done, 75 preempted (run the same command again), otherwise the code of the last failure.
    """
    world = World.detect()
    terminate_with_launcher(world)
    console.set_up(world)
    with _reported_once(world):
        if sweep:
            ds_config = write_swept_case(ds_config, sweep, out, set)
        arms = select_arms(ds_config, arm)
        distinct = dict.fromkeys((each.path, each.run_arm) for each in arms)  # two may be one run
        cases = read_cases(distinct, set, out)
        runs = prepare_runs(cases, data, out, world)
    unfinished = [run for run in runs if not run.is_finished()]
    for run in runs:
        if run not in unfinished:
            run.warn_if_changed()
    code: int = ExitCode.SUCCESS
    with contextlib.ExitStack() as stack:
        if unfinished:
            session = stack.enter_context(open_session(unfinished, world))
            code = session.train_all(unfinished, profile=profile)
        if world.is_main:
            from bertds.report.training_summary import training_summary  # a second to import

            run_dirs = [run.run_dir for run in runs]
            for line in training_summary(out / ds_config.stem, arms, run_dirs):
                print(line)
        if unfinished:
            # After the report: launchers end all ranks as soon as one ends with a code.
            destroy_process_group()
    return code


@contextlib.contextmanager
def _reported_once(world: World) -> Iterator[None]:
    """Let local rank 0 report an error in the files, which every rank of a host finds alike.

    Errors of a GPU are reported by the rank that has them.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if world.local_rank == 0 or isinstance(error, DeviceError):
            raise
        time.sleep(_GRACE_S)  # launchers end all ranks with the first one that ends
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    sys.exit(cli.run("launch/train.py", main))
