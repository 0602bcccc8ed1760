"""What job files ask about a run: the name of an arm, and whether the job is to go on.

    python launch/job_status.py arm 2 --ds_config ds_configs/case11.json
    python launch/job_status.py steps --ds_config ds_configs/case11.json --out runs

It takes the arguments of launch/train.py, reads the case file and `status.json`, and needs neither
torch nor a device.
"""

import sys
from pathlib import Path

from bertds import cli
from bertds.config.case import list_arms, select_arms
from bertds.errors import RESUMABLE, ConfigError
from bertds.io.json_files import read_json


def arm(
    number: int,
    ds_config: Path,
    data: Path = Path("data"),  # noqa: ARG001
    out: Path = Path("runs"),  # noqa: ARG001
    set: str = "",  # noqa: ARG001
    profile: bool = False,  # noqa: ARG001
) -> None:
    """Print the name of an arm.

    Args:
        number: Its place in the case file, from 0.
        ds_config: The case file.
        data: Not used.
        out: Not used.
        set: Not used.
        profile: Not used.

    Raises:
        ConfigError: The case file has fewer arms.
    """
    names = [each.name for each in list_arms(ds_config)]
    if not 0 <= number < len(names):
        raise ConfigError(
            f"there is no arm {number}, {ds_config} has {len(names)} ({', '.join(names)}): submit "
            f"with --array 0-{len(names) - 1}"
        )
    print(names[number])


def steps(
    ds_config: Path,
    arm: str = "",
    data: Path = Path("data"),  # noqa: ARG001
    out: Path = Path("runs"),
    set: str = "",  # noqa: ARG001
    profile: bool = False,  # noqa: ARG001
) -> None:
    """Print whether the same command would go on (`resumable` or `ended`), and the steps so far.

    Args:
        ds_config: The case file.
        arm: One of its arms; all of them if not given.
        data: Not used.
        out: Directory of the runs.
        set: Not used.
        profile: Not used.
    """
    arms = select_arms(ds_config, arm)
    found = [read_json(out / each.same_as / "status.json") for each in arms]
    begun = [status for status in found if status]
    codes = {status["code"] for status in begun if status["state"] != "done"}
    # Between two arms there is nothing unfinished, and yet something to do.
    between = not codes and 0 < len(begun) < len(found)
    resumable = between or not codes.isdisjoint(RESUMABLE)
    print("resumable" if resumable else "ended", sum(status["step"] for status in begun))


if __name__ == "__main__":
    sys.exit(cli.run("launch/job_status.py", {"arm": arm, "steps": steps}))
