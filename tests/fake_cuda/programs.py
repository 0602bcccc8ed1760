"""Runs the programs on the fake card, each in a process of its own, and reads their results."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.helpers.launching import ROOT, environment, free_port


def run_program(name: str) -> Any:
    """Run `python -m tests.fake_cuda.<name>`, which writes JSON to the file that it is given.

    Raises:
        RuntimeError: It failed; the message is what it printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "result.json"
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        done = subprocess.run(
            [sys.executable, "-m", f"tests.fake_cuda.{name}", str(out)],
            cwd=ROOT,
            env={**environment(), **rendezvous, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stdout)
        return json.loads(out.read_text(encoding="utf-8"))


def write_result(result: Any) -> None:
    """Write the result of this program."""
    Path(sys.argv[1]).write_text(json.dumps(result), encoding="utf-8")
