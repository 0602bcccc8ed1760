"""FlashAttention 3 is activated where it can run, and rejected elsewhere with the reason."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import current_flash_attention_impl

from bertds.config.case import Case, read_case
from bertds.errors import ConfigError, DeviceError
from bertds.model.flash_attention import activate_flash_attention, check_flash_attention
from tests.helpers.in_process_training import BASE

WITHOUT_KERNELS = "import torch\n"
WITH_KERNELS = """
import torch
library = torch.library.Library("flash_attn_3", "DEF")
library.define("fwd(Tensor query) -> Tensor")
library.define("bwd(Tensor query) -> Tensor")
"""


def case_of(tmp_path: Path, kernel: str) -> Case:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    return read_case(path, "main", f"run.attention={kernel},bf16.enabled=true")


def see_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


def install(monkeypatch: pytest.MonkeyPatch, directory: Path, content: str) -> None:
    """Put a package of this content in the place of the real one."""
    monkeypatch.delitem(sys.modules, "flash_attn_interface", raising=False)
    directory.mkdir()
    (directory / "flash_attn_interface.py").write_text(content)
    monkeypatch.syspath_prepend(directory)


def rejection(case: Case, kind: type[ConfigError]) -> str:
    with pytest.raises(kind) as rejected:
        check_flash_attention(case)
    message = str(rejected.value)
    assert message.startswith('run.attention is "fa3", but')
    assert message.endswith('or set it to "auto"')
    assert "\n" not in message
    return message


def test_what_a_machine_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_flash_attention(case_of(tmp_path, "auto"))
    case = case_of(tmp_path, "fa3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no GPU on" in rejection(case, DeviceError)
    see_gpu(monkeypatch, (8, 9))
    assert "has compute capability 8.9: use one with 9.0" in rejection(case, DeviceError)
    see_gpu(monkeypatch, (9, 0))
    assert "the package flash_attn_interface is not installed" in rejection(case, ConfigError)
    install(monkeypatch, tmp_path / "package", WITHOUT_KERNELS)
    check_flash_attention(case)


def test_it_is_activated_for_its_own_runs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's own registry, with a package that has the kernels' names."""
    case, other = case_of(tmp_path, "fa3"), case_of(tmp_path, "auto")
    activate_flash_attention(other)
    assert current_flash_attention_impl() is None
    install(monkeypatch, tmp_path / "broken", WITHOUT_KERNELS)
    with pytest.raises(ConfigError, match=r"cannot be used on .* build it for this PyTorch"):
        activate_flash_attention(case)
    assert current_flash_attention_impl() is None
    install(monkeypatch, tmp_path / "complete", WITH_KERNELS)
    activate_flash_attention(case)
    assert current_flash_attention_impl() == "FA3"
    activate_flash_attention(other)
    assert current_flash_attention_impl() is None
