"""Answer questions of job files: the name of an arm, and whether to submit the job again.

    python launch/job_status.py arm 2 --ds_config ds_configs/case11.json
    python launch/job_status.py steps --ds_config ds_configs/case11.json --out runs

Both commands also accept the other flags of launch/train.py, and ignore them. They read the case
file and `status.json`, and need neither torch nor a device.
"""

import sys
from pathlib import Path

from bertds import cli
from bertds.config.case import list_arms, select_arms
from bertds.errors import RESUMABLE, ConfigError
from bertds.io.json_files import read_json
from bertds.runs.sweeps import write_swept_case

# The flags of launch/train.py that a command does not use.
IGNORED_FLAGS = {"data": Path, "set": str, "profile": bool}


def arm(number: int, ds_config: Path, out: Path = Path("runs"), sweep: str = "") -> None:
    """Print the name of an arm.

    Args:
        number: Its index in the case file, from 0.
        ds_config: The case file.
        out: Directory of the runs.
        sweep: Values to try, whose grid makes the arms.

    Raises:
        ConfigError: The case file has fewer arms.
    """
    names = [each.name for each in list_arms(_swept(ds_config, sweep, out))]
    if not 0 <= number < len(names):
        raise ConfigError(
            f"there is no arm {number}, {ds_config} has {len(names)} ({', '.join(names)}): submit "
            f"with --array 0-{len(names) - 1}"
        )
    print(names[number])


def steps(ds_config: Path, arm: str = "", out: Path = Path("runs"), sweep: str = "") -> None:
    """Print `resumable` or `ended`, and the number of steps so far.

    A job is resumable if the same command would continue it.

    Args:
        ds_config: The case file.
        arm: One of its arms; all of them if not given.
        out: Directory of the runs.
        sweep: Values to try, whose grid makes the arms.
    """
    arms = select_arms(_swept(ds_config, sweep, out), arm)
    statuses = [read_json(out / each.same_as / "status.json") for each in arms]
    started = [status for status in statuses if status]
    codes = {status["code"] for status in started if status["state"] != "done"}
    # Preempted between two arms: all started ones are done, the others have no status.
    is_between_arms = not codes and 0 < len(started) < len(statuses)
    is_resumable = is_between_arms or not codes.isdisjoint(RESUMABLE)
    print("resumable" if is_resumable else "ended", sum(status["step"] for status in started))


def _swept(ds_config: Path, sweep: str, out: Path) -> Path:
    """The case file, with the arms of a sweep if there is one."""
    return write_swept_case(ds_config, sweep, out) if sweep else ds_config


def main(argv: list[str] | None = None) -> int:
    """Run the command that the arguments name, and return the exit code."""
    commands: dict[str, cli.Command] = {"arm": arm, "steps": steps}
    return cli.run("launch/job_status.py", commands, argv, ignored_flags=IGNORED_FLAGS)


if __name__ == "__main__":
    sys.exit(main())
