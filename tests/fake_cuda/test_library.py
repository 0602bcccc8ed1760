"""The compiler that the fake card needs: what is said where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fake_cuda import library
from tests.helpers.launching import ROOT


def test_without_a_compiler_one_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no g\+\+ on PATH: .* apt-get install g\+\+"):
        library.compile_library()
    assert not list(tmp_path.iterdir())


def test_make_install_says_once_that_the_compiler_is_missing(tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make is not None
    (tmp_path / "installed").touch()

    def install() -> str:
        command = [make, "--silent", "install", f"VENV={tmp_path}"]
        environment = {**os.environ, "PATH": str(tmp_path)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr

    assert install().count("g++ is not installed") == 1
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    assert not install()
