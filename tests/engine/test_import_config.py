"""Configurations of other programs become case files that pass all checks, key by key."""

import json
from pathlib import Path
from typing import Any

import pytest

from bertds import cli
from bertds.__main__ import COMMANDS
from bertds.config.flatten import flatten
from bertds.engine.import_config import import_config
from bertds.errors import ConfigError
from bertds.training.case_check import check_cases

LOSS_SCALE = {"loss_scale": 0, "initial_scale_power": 16, "hysteresis": 2}
ADAM = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
WARMUP = {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}

# The keys that such files have in common, with other values than theirs.
TRANSFORMERS = {
    "fp16": {"enabled": "auto", **LOSS_SCALE},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": ADAM},
    "scheduler": {"type": "WarmupDecayLR", "params": {**WARMUP, "total_num_steps": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "offload_param": {"device": "cpu", "pin_memory": True},
        "reduce_bucket_size": "auto",
        "sub_group_size": 1e9,
        "stage3_gather_fp16_weights_on_model_save": True,
    },
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
MEGATRON = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 3,
    "zero_optimization": {"stage": 1, "cpu_offload": True, "elastic_checkpoint": True},
    "optimizer": {"type": "adam", "params": {"lr": 2e-4, "max_grad_norm": 0.5}},
    "bfloat16": {"enabled": True, "loss_scale": 1.0},
    "communication_data_type": "bfp16",
    "activation_checkpointing": {"partition_activations": True},
    "flops_profiler": {"enabled": True, "profile_step": -1},
    "curriculum_learning": {"enabled": False},
}
LAMB = {
    "train_batch_size": 4096,
    "train_micro_batch_size_per_gpu": 16,
    "optimizer": {"type": "OneBitLamb", "params": {"lr": 1e-2, "freeze_step": 10}},
    "scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1e-3, "cycle_max_lr": 5e-3}},
    "fp16": {"enabled": True, **LOSS_SCALE},
    "prescale_gradients": True,
    "gradient_predivide_factor": 8,
    "sparse_attention": {"mode": "fixed"},
}
TEMPLATE = """{
    "train_batch_size" : GLOBAL_BATCH,   // filled in by a script
    "steps_per_print": LOG_INTERVAL,
    "zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}},
    "fp16": {"enabled": true, "loss_scale": 0,},
    "data_efficiency": {"enabled": true},
}"""
FILES: dict[str, Any] = {
    "transformers": TRANSFORMERS,
    "megatron": MEGATRON,
    "lamb": LAMB,
    "template": TEMPLATE,
    "legacy_stage": {"zero_optimization": True, "optimizer": {"type": "Muon", "params": {}}},
    "muon": {
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
        "optimizer": {
            "type": "Muon",
            "params": {"lr": 0.02, "adam_lr": 1e-3, "momentum": 0.9, "ns_method": "gram"},
        },
    },
    "muon_and_one_rate": {
        "optimizer": {"type": "Muon", "params": {"lr": 1e-3, "muon_lr": 0.02}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1e-3}},
    },
    "nvme": {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}},
    "fixed_scale": {"fp16": {"enabled": True, "loss_scale": 128, "loss_scale_window": 500}},
    "fixed_scale_and_lamb": {
        "fp16": {"enabled": True, "loss_scale": 128, "hysteresis": 2},
        "optimizer": {"type": "OneBitLamb", "params": {"lr": 1e-3}},
    },
    "wrong_types": {
        "optimizer": {"type": "Lamb", "params": {}},
        "scheduler": {"type": ["WarmupLR"]},
        "zero_optimization": {"stage": "2"},
    },
    "wrong_parameters": {"scheduler": {"type": "WarmupLR", "params": [1]}},
    "wrong_lengths": {
        "scheduler": {
            "type": "OneCycle",
            "params": {"cycle_min_lr": 1e-5, "cycle_first_step_size": "1000"},
        }
    },
    "wrong_values": {"optimizer": {"type": "Adam", "params": {"betas": [0.9, 2], "lr": 1e-3}}},
}


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "foreign.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def value_at(content: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        content = content[part]
    return content


@pytest.mark.parametrize("name", FILES)
def test_the_result_passes_all_checks_and_every_key_is_accounted_for(tmp_path, name):
    path, out = write(tmp_path, FILES[name]), tmp_path / "case.json"
    assert cli.run("bertds", COMMANDS, ["import-config", str(path), f"--out={out}"]) == 0
    check_cases([(out, "main")])
    case = flatten(json.loads(out.read_text()))
    conversion = import_config(path)
    told: dict[str, list[str]] = {each: [] for each in ("kept", "changed", "dropped", "added")}
    for line in conversion.lines():
        action, key = line.split()[:2]
        told[action].append(key)
        assert action == "kept" or line.partition(": ")[2]  # a reason
    source = flatten(conversion.source)
    assert sorted(source) == sorted(told["kept"] + told["changed"] + told["dropped"])
    assert sorted(case) == sorted(told["kept"] + told["changed"] + told["added"])
    assert all(case[key] == source[key] for key in told["kept"])
    assert all(case[key] != source[key] for key in told["changed"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            TRANSFORMERS,
            {
                "optimizer.params.lr": 5e-5,
                "gradient_clipping": 1.0,
                "fp16.enabled": False,
                "fp16.initial_scale_power": 16,
                "scheduler.params.warmup_type": "log",
                "zero_optimization.offload_param.device": "cpu",
            },
        ),
        (
            MEGATRON,
            {
                "train_batch_size": 12,
                "bertds.run.max_micro_batch_size": 4,
                "optimizer.type": "Adam",
                "optimizer.params.adam_w_mode": True,
                "gradient_clipping": 0.5,
                "bf16": {"enabled": True},
                "zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}},
            },
        ),
        (
            LAMB,
            {
                "optimizer.type": "Lamb",
                "optimizer.params.lr": 5e-3,  # what OneCycle trains with
                "bf16.enabled": True,
                "fp16.enabled": False,
                "bertds.run.max_steps": 4000,
            },
        ),
        (
            TEMPLATE,
            {
                "train_batch_size": 8,
                "optimizer.type": "AdamW",
                "zero_optimization.stage": 1,
                "zero_optimization.offload_optimizer.device": "cpu",
                "fp16.enabled": True,
            },
        ),
    ],
)
def test_values_keep_their_meaning(tmp_path, source, expected):
    content = import_config(write(tmp_path, source)).content
    assert {path: value_at(content, path) for path in expected} == expected


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("[1]", "is not a DeepSpeed configuration"),
        ("{", "is not JSON"),
        ({"bertds": {}}, "is a case file already"),
        (
            {"scheduler": {"type": "OneCycle", "params": {}}},
            "the key scheduler.params.cycle_min_lr is missing",
        ),
    ],
)
def test_a_file_that_cannot_be_converted_leaves_nothing(tmp_path, content, part):
    path, out = write(tmp_path, content), tmp_path / "case.json"
    with pytest.raises(ConfigError) as rejected:
        import_config(path)
    assert part in str(rejected.value)
    assert cli.run("bertds", COMMANDS, ["import-config", str(path), f"--out={out}"]) == 2
    assert not out.exists()


def test_an_existing_file_is_not_replaced(tmp_path, capsys):
    path = write(tmp_path, TRANSFORMERS)
    assert cli.run("bertds", COMMANDS, ["import-config", str(path), f"--out={path}"]) == 2
    assert "exists: choose another file" in capsys.readouterr().err
    assert json.loads(path.read_text()) == TRANSFORMERS
