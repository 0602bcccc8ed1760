"""Trains the arms of a case file, one after the other, and draws the case.

    deepspeed launch/train.py --ds_config ds_configs/case11.json [--arm NAME] [--set 'a.b=value,…'] [--profile]

Everything that files can tell is checked for all arms before a process group exists. Finished arms
are skipped, a failed one is recorded and the next tried; a signal ends all, and so does a process
that is lost.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bertds import cli
from bertds.config.case import Arm, list_arms, read_case
from bertds.distributed.launcher_guard import terminate_with_launcher
from bertds.distributed.world import World
from bertds.engine.process_group import (
    all_gather_object,
    destroy_process_group,
    init_process_group,
)
from bertds.errors import COLLECTIVE_ERRORS, ConfigError, DeviceError, ExitCode, exit_code_of
from bertds.io.json_files import read_json, write_json
from bertds.runs.lock import locked
from bertds.tracking import console
from bertds.tracking.jsonl import read_metrics
from bertds.train.preemption import PreemptionSignal
from bertds.train.setup import RunSetup, prepare_run
from bertds.train.trainer import train

logger = logging.getLogger("bertds")

_TO_SPEAK_S = 10.0


def main(
    ds_config: Path,
    arm: str = "",
    data: str = "data",
    out: Path = Path("runs"),
    set: str = "",
    profile: bool = False,
) -> int:
    """Train a case.

    Args:
        ds_config: The case file.
        arm: One of its arms; all of them if not given.
        data: Directory or URL that the names of shard sets are relative to.
        out: Directory for <case>/<arm>/.
        set: Changes, as 'a.b=value,…'; values are JSON or plain text, null deletes.
        profile: Write a Chrome trace of a few steps to each run's directory, trace.json.

    Returns:
        0 done, 75 pre-empted (run the same command again), else the code of the last failure.
    """
    world = World.detect()
    terminate_with_launcher(world)
    console.set_up(world)
    with _only_first_complains(world):
        arms = _chosen(ds_config, arm)
        once = dict.fromkeys((each.path, each.run_arm) for each in arms)  # two may be one run
        cases = [read_case(path, name, set) for path, name in once]
        runs = [prepare_run(case, data, out / case.name / case.arm, world) for case in cases]
    unfinished = _unfinished(runs)
    with contextlib.ExitStack() as locks:
        for run in unfinished if world.is_main else []:
            locks.enter_context(locked(run.run_dir))
        code = _train_all(unfinished, world, profile=profile) if unfinished else 0
        if world.is_main:
            _draw_or_say(out / ds_config.stem, arms, runs)
        if unfinished:
            destroy_process_group()  # after the drawing: launchers kill all as soon as one process ends with a code
    return code


def _unfinished(runs: list[RunSetup]) -> list[RunSetup]:
    """Those to be trained; of the others it is said where they are asked for with other settings."""
    for run in runs:
        if run.is_finished():
            run.warn_if_changed()
    return [run for run in runs if not run.is_finished()]


@contextlib.contextmanager
def _only_first_complains(world: World) -> Iterator[None]:
    """Every process of a host finds the same fault in its files, one sentence is enough; not so a GPU."""
    try:
        yield
    except (ValueError, OSError) as error:
        if world.local_rank == 0 or isinstance(error, DeviceError):
            raise
        time.sleep(_TO_SPEAK_S)  # launchers end all processes with the first one that ends
        sys.exit(exit_code_of(error))


def _chosen(path: Path, name: str) -> list[Arm]:
    arms = list_arms(path)
    chosen = [arm for arm in arms if name in ("", arm.name)]
    if not chosen:
        known = ", ".join(arm.name for arm in arms)
        raise ConfigError(f"--arm {name}: {path} has no such arm, its arms are {known}")
    return chosen


def _train_all(runs: list[RunSetup], world: World, *, profile: bool) -> int:
    """The runs one after the other in the same processes; the code of the last that failed."""
    device = init_process_group(world, runs[0].case.bertds.run.collective_timeout_s)
    code = 0
    with PreemptionSignal().listening() as request:
        for run in runs:
            # A request may come between two runs, and to one process alone.
            if run is not runs[0] and any(all_gather_object(request.is_set())):
                return ExitCode.PREEMPTED
            code = _train_one(run, device, request, profile=profile) or code
            if code == ExitCode.PREEMPTED:
                break
    return code


def _train_one(
    run: RunSetup, device: torch.device, request: PreemptionSignal, *, profile: bool
) -> int:
    """One run; a fault that all processes see alike is its code, any other ends the processes."""
    try:
        return train(run, device, request, profile=profile)
    except COLLECTIVE_ERRORS as error:
        if run.world.is_main:
            logger.error("%s/%s failed: %s", run.case.name, run.case.arm, error)
        return error.code


def _draw_or_say(case_dir: Path, arms: list[Arm], runs: list[RunSetup]) -> None:
    """No drawing changes what the training ended with."""
    try:
        _draw(case_dir, arms, runs)
    except (ValueError, OSError) as error:
        logger.error(
            "the record was not drawn (%s): `python -m bertds report %s` does it", error, case_dir
        )


def _draw(case_dir: Path, arms: list[Arm], runs: list[RunSetup]) -> None:
    """The record of the case so far, and where everything is."""
    from bertds.report.case_report import (
        write_report,  # takes a second, and one process of all draws
    )

    for arm in arms:
        if arm.same_as != f"{case_dir.name}/{arm.name}":
            directory = case_dir / arm.name
            directory.mkdir(parents=True, exist_ok=True)
            content = {"case": case_dir.name, "arm": arm.name, "same_as": arm.same_as}
            write_json(directory / "case.json", content, concurrent_writers=True)
    report = write_report(case_dir)
    for run in runs:
        print(f"run     {run.run_dir}{_result(run.run_dir)}")
    print(f"record  {case_dir / report.record.name}")
    print(f"page    {case_dir / report.page.name}")
    for plot in report.plots:
        print(f"plot    {case_dir / plot.name}")


def _result(run_dir: Path) -> str:
    """The last validation figures beside those of a guess that sees no context."""
    guess = read_json(run_dir / "case.json").get("resolved", {}).get("guess_without_context")
    lines = [one for one in read_metrics(run_dir / "metrics.jsonl") if "loss/valid" in one]
    if not lines or guess is None:
        return ""
    last = lines[-1]
    return (
        f": step {last['step']}, validation accuracy {last['acc/valid']:.1%} (a guess without "
        f"context: {guess['accuracy']:.1%}), loss {last['loss/valid']:.3f} nats (without context: "
        f"{guess['loss']:.3f})"
    )


if __name__ == "__main__":
    sys.exit(cli.run("launch/train.py", main))
