"""The varlen path and the engine with the oldest torch that the project supports.

torch has changed the arguments of its varlen attention before.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.helpers.launching import ROOT

ENVIRONMENT = ROOT / ".cache" / "oldest-torch"
TESTS = ["tests/model/test_varlen_attention.py", "tests/engine/test_varlen_attention.py"]


def oldest_torch() -> str:
    """The lower bound in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (bounds,) = (line for line in project["dependencies"] if re.match(r"torch\b", line))
    return re.search(r">=([\d.]+)", bounds)[1]


def python_with(torch: str) -> Path:
    """The Python of an environment with this torch; all else comes from the present one."""
    python, marker = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "installed"
    if not marker.exists() or marker.read_text() != torch:
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"torch=={torch}.*"], check=True)
        site = ENVIRONMENT / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        (site / "project.pth").write_text(sysconfig.get_path("purelib"))
        marker.write_text(torch)
    return python


@pytest.mark.slow
def test_the_oldest_supported_torch_computes_the_same():
    """Needs PyPI and 5 GB of disk when it first runs, since PyPI's torch for Linux is for CUDA."""
    oldest = oldest_torch()
    python = python_with(oldest)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    script = "import torch; print(torch.__version__)"
    found = subprocess.check_output([python, "-c", script], text=True, env=environment)
    assert found.startswith(f"{oldest}.")
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", *TESTS]
    result = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
