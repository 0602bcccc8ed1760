"""Keys of `bertds.run` that exclude others are rejected with both values and a remedy."""

import json
from pathlib import Path

import pytest

from bertds.config.case import Case, read_case
from bertds.errors import ConfigError
from tests.helpers.in_process_training import BASE

MUON = (
    'optimizer={"type":"Muon","params":{"lr":0.002,"weight_decay":0.1,"muon_lr":0.02,"eps":1e-8}}'
)


def case_with(tmp_path: Path, settings: str) -> Case:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(BASE))
    return read_case(path, "main", settings)


@pytest.mark.parametrize(
    ("settings", "said", "remedy"),
    [
        (
            "run.compile=true,zero_optimization.stage=3",
            "run.compile is true at zero_optimization.stage 3",
            "set the stage to 2 or less",
        ),
        (
            "run.compile=true,run.deterministic=true",
            "run.compile is true and run.deterministic is true",
            "set one of them to false",
        ),
        (
            "run.compile=true,flops_profiler.enabled=true",
            "run.compile is true and flops_profiler.enabled is true",
            "set one of them to false",
        ),
        ("run.attention=fa3", 'run.attention is "fa3" with fp32', 'set it to "auto"'),
        (
            "run.attention=fa3,bf16.enabled=true,model.attention_probs_dropout_prob=0.1",
            "model.attention_probs_dropout_prob 0.1",
            'set it to "auto"',
        ),
        (
            "run.attention=fa3,bf16.enabled=true,model.num_attention_heads=4",
            "heads of 4",
            'set it to "auto"',
        ),
        (
            f"{MUON},zero_optimization.offload_optimizer.device=cpu",
            'offload_optimizer.device is "cpu", but optimizer.type is Muon',
            "or use AdamW",
        ),
        (
            (
                f"{MUON},bf16.enabled=true,bf16.bf16_master_weights_and_grads=true,"
                "bf16.bf16_optimizer_states=true"
            ),
            "bf16.bf16_master_weights_and_grads is true, but optimizer.type is Muon",
            "or use AdamW",
        ),
        (
            (
                f"{MUON},scheduler.type=WarmupLR,"
                'scheduler.params={"warmup_num_steps":4,"warmup_type":"linear"}'
            ),
            "optimizer.params.muon_lr is 0.02 and scheduler.type is WarmupLR",
            "or leave muon_lr out",
        ),
        ("run.attention=fa4", 'bertds.run.attention is "fa4", expected "auto" or "fa3"', ""),
    ],
)
def test_a_rejected_combination(tmp_path: Path, settings: str, said: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        case_with(tmp_path, settings)
    assert said in str(rejected.value)
    assert remedy in str(rejected.value)
    assert "\n" not in str(rejected.value)


@pytest.mark.parametrize(
    "settings",
    [
        "run.compile=true",
        "run.compile=true,zero_optimization.stage=2,bf16.enabled=true",
        "run.compile=false,zero_optimization.stage=3,run.deterministic=true",
        "run.attention=auto",
        "run.attention=fa3,bf16.enabled=true",
        f"{MUON},zero_optimization.stage=3,bf16.enabled=true",
        (
            f"{MUON},optimizer.params.muon_lr=null,scheduler.type=WarmupLR,"
            'scheduler.params={"warmup_num_steps":4,"warmup_type":"linear"}'
        ),
    ],
)
def test_an_accepted_combination(tmp_path: Path, settings: str) -> None:
    assert case_with(tmp_path, settings)


def test_both_keys_are_off_by_default(tmp_path: Path) -> None:
    run = case_with(tmp_path, "").bertds.run
    assert not run.compile
    assert run.attention == "auto"
