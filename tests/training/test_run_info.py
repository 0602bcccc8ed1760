"""What a run reports about the machine at its start."""

import json

import numpy as np
import pytest
import torch

from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.training.run_info import emulated_bf16, measured_ratio
from bertds.training.setup import prepare_run
from tests.helpers.in_process_training import BASE


@pytest.mark.parametrize("unit", ["token", "word"])
def test_the_masking_ratio_is_measured_on_the_next_batches(data_root, tmp_path, unit):
    (tmp_path / "case.json").write_text(json.dumps(BASE))
    case = read_case(tmp_path / "case.json", "main", f"masking.ratio=0.3,masking.unit={unit}")
    run = prepare_run(case, data_root, tmp_path / "out", World())
    batches = [run.loader.batch(number) for number in range(1, run.lengths.num_steps)]
    packs = [pack for batch in batches for pack in batch]
    tokens = np.concatenate([pack.inputs for pack in packs])
    labels = np.concatenate([pack.labels for pack in packs])
    # Masks hide the original ids: count the special ids, which are never masked.
    special = [
        number for number in run.vocabulary.unmaskable_ids if number != run.vocabulary.mask_id
    ]
    num_special = np.isin(tokens, special).sum()
    ratio = measured_ratio(run, 1)
    assert (ratio.expected, ratio.unit, ratio.masked) == (0.3, unit, labels.size)
    assert ratio.maskable == tokens.size - num_special


@pytest.mark.parametrize("supported", [True, False])
def test_emulated_bf16_is_warned_of(monkeypatch, supported):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    cpu = torch.device("cpu")
    assert ("set bf16.enabled=false" in emulated_bf16("bf16", cpu)) != supported
    assert emulated_bf16("fp32", cpu) == ""
    assert emulated_bf16("bf16", torch.device("cuda")) == ""
