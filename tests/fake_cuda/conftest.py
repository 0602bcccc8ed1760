"""The fake card needs a compiler: without one its tests fail on Linux, and are skipped elsewhere."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_cuda.library import compile_library
from tests.fake_cuda.programs import run_program


@pytest.fixture(scope="session")
def on_fake_card() -> Callable[[str], Any]:
    """Runs a program of this directory on the fake card; compiles its library before, once."""
    if sys.platform != "linux":
        pytest.skip("the fake CUDA device is compiled for Linux only")
    try:
        compile_library()
    except RuntimeError as error:
        pytest.fail(str(error))
    return run_program
