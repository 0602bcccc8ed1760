"""The private names of DeepSpeed and torch are there, and do what they are used for."""

import importlib
import sys
from pathlib import Path

import deepspeed
import pytest
import torch

from bertds.engine.deepspeed_compat import (
    has_bf16_instructions,
    import_muon_uncompiled,
    is_torch_optimizer,
    make_skippable,
    record_nvtx_ranges,
)
from bertds.training.profiler import traced


def test_deepspeeds_muon_is_not_compiled() -> None:
    module = "deepspeed.runtime.zero.muon.original_muon"
    import_muon_uncompiled()
    plain = importlib.import_module(module)
    assert not hasattr(plain.muon_update, "_torchdynamo_orig_callable")
    del sys.modules[module]
    compiled = importlib.import_module(module)
    assert hasattr(compiled.muon_update, "_torchdynamo_orig_callable")
    del sys.modules[module]


def test_a_torch_optimizer_skips_the_steps_that_overflow_marks() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    assert is_torch_optimizer(optimizer)
    make_skippable(optimizer)
    weight.grad = torch.ones(2)
    optimizer.overflow = True  # type: ignore[attr-defined]
    optimizer.step()
    assert weight.tolist() == [1.0, 1.0]
    optimizer.overflow = False  # type: ignore[attr-defined]
    optimizer.step()
    assert weight.tolist() == [0.0, 0.0]


def test_only_a_profiled_run_records_nvtx_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[str] = []
    monkeypatch.setattr("deepspeed.utils.nvtx._range_push", lambda _, name: ranges.append(name))
    instrumented = deepspeed.utils.instrument_w_nvtx(lambda: None)
    record_nvtx_ranges(False)
    instrumented()
    assert not ranges
    with traced(tmp_path):
        instrumented()
    instrumented()
    assert len(ranges) == 1


def test_torch_tells_whether_the_cpu_multiplies_bf16() -> None:
    assert has_bf16_instructions() in (True, False)
