"""Compiles `card.cpp` and loads it, before torch is imported."""

import ctypes
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("card.cpp")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "fake_cuda"
NO_COMPILER = (
    "no g++ on PATH: the tests on a fake CUDA device compile a small library with it; install it "
    "(Debian: apt-get install g++)"
)


def compile_library() -> Path:
    """Compile the library for the installed torch, unless it is in the cache; takes seconds.

    Raises:
        RuntimeError: There is no compiler.
    """
    torch = _torch_directory()
    version = (torch / "version.py").read_bytes()
    key = hashlib.sha256(_SOURCE.read_bytes() + version + str(torch).encode()).hexdigest()[:16]
    library = CACHE / f"card-{key}.so"
    if library.exists():
        return library
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError(NO_COMPILER)
    CACHE.mkdir(parents=True, exist_ok=True)
    # Other test processes may compile it at the same time, so it gets its name when it is complete.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        out = Path(scratch) / "card.so"
        options = ["-std=c++20", "-O0", "-shared", "-fPIC", f"-I{torch / 'include'}"]
        libraries = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
        subprocess.run([compiler, *options, _SOURCE, *libraries, "-o", out], check=True)
        out.replace(library)
    return library


def load_library() -> ctypes.CDLL:
    """Load the library; its hooks count only if torch has not been imported yet."""
    assert "torch" not in sys.modules
    return ctypes.CDLL(str(compile_library()), ctypes.RTLD_GLOBAL)


def _torch_directory() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
