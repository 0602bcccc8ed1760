"""`python -m bertds COMMAND`: what is done with runs, without DeepSpeed."""

import sys
from pathlib import Path

from bertds import command_line
from bertds.report import write_report


def report(case_dir: Path) -> None:
    """Draw a case: record.md and its plots.

    Args:
        case_dir: The case's directory, such as runs/case11.
    """
    written = write_report(case_dir)
    for path in (written.record, *written.plots):
        print(path)


if __name__ == "__main__":
    sys.exit(command_line.run("python -m bertds", {"report": report}))
