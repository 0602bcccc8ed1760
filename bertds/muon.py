"""Keeps DeepSpeed's Muon from being compiled where it is not used.

DeepSpeed imports it beside any optimizer, and compiling it imports most of torch's compiler: a
second and 47 MB of each process.
"""

import importlib
import sys
from typing import Any

_MODULES = [f"deepspeed.runtime.zero.muon.{name}" for name in ("original_muon", "muon_optimizer")]


def import_muon(*, is_used: bool) -> None:
    """Import it uncompiled; where it is used, leave it to DeepSpeed, which compiles it."""
    if is_used:
        for name in _MODULES:
            sys.modules.pop(name, None)  # what an arm before has imported
        return
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    compile_ = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        for name in _MODULES:
            importlib.import_module(name)
    finally:
        compiler.compile = compile_
