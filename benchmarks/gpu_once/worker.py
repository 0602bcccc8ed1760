"""How a part talks to the program that runs it: lines on its standard output and input."""

import json
import sys
from typing import Any, NoReturn

READY, RESULT = "READY", "RESULT "
REASON = "skip_reason"
"""Key of the result of a part that cannot run here."""


def wait_for_turn() -> None:
    """Say that all is prepared, and wait until no other part uses the device."""
    print(f"\n{READY}", flush=True)
    sys.stdin.readline()


def report(result: dict[str, Any]) -> None:
    """Hand over what was measured."""
    print(f"\n{RESULT}{json.dumps(result)}", flush=True)


def skip(reason: str) -> NoReturn:
    """End this part, which cannot run here."""
    report({REASON: reason})
    sys.exit(0)
