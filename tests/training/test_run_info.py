"""What a run reports about the machine at its start."""

import pytest
import torch

from bertds.training.run_info import emulated_bf16


@pytest.mark.parametrize("supported", [True, False])
def test_emulated_bf16_is_warned_of(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    cpu = torch.device("cpu")
    assert ("set bf16.enabled=false" in emulated_bf16("bf16", cpu)) != supported
    assert emulated_bf16("fp32", cpu) == ""
    assert emulated_bf16("bf16", torch.device("cuda")) == ""
