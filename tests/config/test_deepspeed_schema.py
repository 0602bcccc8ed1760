"""The keys of a case file against the installed DeepSpeed, so that an upgrade is noticed."""

import inspect
import itertools
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.ops.lamb import FusedLamb
from deepspeed.ops.lion import FusedLion
from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
from deepspeed.runtime import config as deepspeed_config_module
from deepspeed.runtime import constants, lr_schedules
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.swap_tensor.aio_config import get_aio_config
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)
from pydantic_core import PydanticUndefined

from bertds.config import deepspeed_schema as keys
from bertds.config.batch import split_batch
from bertds.config.case import list_arms, read_case
from bertds.config.messages import block_of
from bertds.config.optimizer_schema import OPTIMIZERS, SCHEDULERS
from bertds.config.unsupported_keys import UNSUPPORTED_KEYS, remedy
from bertds.engine.deepspeed_config import deepspeed_config
from bertds.engine.deepspeed_keys import MODELS, check_deepspeed_keys
from bertds.errors import ConfigError
from bertds.optim.lr_schedules import DEEPSPEEDS_OWN, ScheduleLengths

CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"
ARMS = [
    (path.name, arm.name)
    for path in sorted(CONFIGS.glob("*.json"))
    for arm in list_arms(path)
    if arm.path == path
]


class Watched(dict[str, Any]):
    """A block that records which keys are read."""

    read: set[str] = set()  # noqa: RUF012 - shared with the copies that DeepSpeed makes

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.read.add(key)
        return super().__contains__(key)

    def keys(self):
        return self


def test_each_top_level_key_is_known_or_unsupported():
    Watched.read.clear()
    DeepSpeedConfig(
        Watched(
            train_batch_size=1,
            optimizer={"type": "Adam", "params": {}},
            scheduler={"type": "WarmupLR", "params": {}},
        )
    )
    # Read only with a process group.
    expected = Watched.read | {"sequence_parallel_size"}
    assert expected == keys.DeepSpeedKeys.model_fields.keys() | UNSUPPORTED_KEYS.keys()
    assert not keys.DeepSpeedKeys.model_fields.keys() & UNSUPPORTED_KEYS.keys()


def test_the_keys_that_deepspeed_has_removed_are_unsupported():
    for key in deepspeed_config_module._REMOVED_TOP_LEVEL_CONFIG_KEYS:
        assert "DeepSpeed 0.19 has removed it" in UNSUPPORTED_KEYS[key]


def test_deepspeed_ignores_a_misspelled_key():
    """The reason to check the keys here."""
    parsed = DeepSpeedConfig({"train_batch_size": 1, "gradient_cliping": 7.0})
    assert parsed.gradient_clipping == 1.0


def test_a_key_with_a_surprising_default_is_required():
    assert constants.GRADIENT_CLIPPING_DEFAULT == 1.0
    assert deepspeed_config_module.ADAM_W_MODE_DEFAULT is True
    for kind in ("WarmupLR", "WarmupDecayLR", "WarmupCosineLR"):
        warmup_type = inspect.signature(getattr(lr_schedules, kind)).parameters["warmup_type"]
        assert warmup_type.default == "log"
        assert SCHEDULERS[kind].model_fields["warmup_type"].is_required()
    assert inspect.signature(lr_schedules.OneCycle).parameters["cycle_momentum"].default is True
    assert SCHEDULERS["OneCycle"].model_fields["cycle_momentum"].is_required()
    assert keys.DeepSpeedKeys.model_fields["gradient_clipping"].is_required()
    assert all(block.model_fields["weight_decay"].is_required() for block in OPTIMIZERS.values())
    assert OPTIMIZERS["Adam"].model_fields["adam_w_mode"].is_required()


def test_the_defaults_of_single_values():
    parsed = DeepSpeedConfig({"train_batch_size": 1})
    for name, field in keys.DeepSpeedKeys.model_fields.items():
        if isinstance(field.default, bool | float):
            assert getattr(parsed, name) == field.default, name


# DeepSpeed's keys that a case file may not contain: old spellings, features that bertds does not
# use, and compute_grad_norm, without which there is no grad_norm to log.
NOT_OFFERED = {
    keys.Zero: {
        "compute_grad_norm",
        "cpu_offload",
        "cpu_offload_param",
        "cpu_offload_use_pin_memory",
        "elastic_checkpoint",
        "enable_sanity_checks",
        "leaf_module",
        "legacy_stage1",
        "load_from_fp32_weights",
        "log_trace_cache_warnings",
        "memory_efficient_linear",
        "override_module_apply",
        "pipeline_loading_checkpoint",
        "save_muon_momentum_buffer_in_memory",
        "stage3_gather_fp16_weights_on_model_save",
        "zenflow",
        "zero_quantized_nontrainable_weights",
    },
}


def test_a_key_that_is_not_offered_has_a_remedy():
    removed = deepspeed_config_module._REMOVED_ZERO_CONFIG_KEYS
    for name in NOT_OFFERED[keys.Zero] | removed.keys():
        assert remedy(f"zero_optimization.{name}"), name
    for name in removed:
        assert remedy(f"zero_optimization.{name}") == "DeepSpeed 0.19 has removed it, delete it"


def defaults(block: Any) -> dict[str, Any]:
    """The keys of a pydantic model as in a file, with their defaults."""
    values = {
        field.alias or name: field.get_default(call_default_factory=True)
        for name, field in block.model_fields.items()
    }
    return {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        *(
            (block_of(keys.DeepSpeedKeys.model_fields[name].annotation), defaults(model))
            for name, model in MODELS.items()
        ),
        (keys.OffloadParam, defaults(DeepSpeedZeroOffloadParamConfig)),
        (keys.OffloadOptimizer, defaults(DeepSpeedZeroOffloadOptimizerConfig)),
        (keys.FlopsProfiler, vars(DeepSpeedFlopsProfilerConfig({"flops_profiler": {}}))),
        (keys.Aio, get_aio_config({})),
        (keys.DataTypes, {constants.GRAD_ACCUM_DTYPE: None}),
    ],
)
def test_a_block_has_deepspeeds_keys_and_defaults(ours, expected):
    found = defaults(ours)
    assert found.keys() == expected.keys() - NOT_OFFERED.get(ours, set())
    for name, value in found.items():
        if ours.model_fields[name].annotation is not Any:  # those have DeepSpeed's own default
            assert (list(value) if isinstance(value, tuple) else value) == expected[name], name


def parameters(function: Any, *without: str) -> set[str]:
    return set(inspect.signature(function).parameters) - {"params", *without}


def test_the_parameters_of_adam():
    fused = parameters(FusedAdam, "amsgrad", "set_grad_none")
    for kind in ("Adam", "AdamW"):
        assert OPTIMIZERS[kind].model_fields.keys() == fused | {"torch_adam"}
    # adam_w_mode and torch_adam choose the class; torch's Adam is not given bias_correction.
    given = fused - {"adam_w_mode"}
    assert given <= parameters(DeepSpeedCPUAdam)
    for torchs in (torch.optim.Adam, torch.optim.AdamW):
        assert given - {"bias_correction"} <= parameters(torchs)


def test_the_parameters_of_lion_and_lamb():
    assert OPTIMIZERS["Lion"].model_fields.keys() == parameters(FusedLion, "set_grad_none")
    assert OPTIMIZERS["Lamb"].model_fields.keys() == parameters(
        FusedLamb, "eps_inside_sqrt", "max_grad_norm", "amsgrad"
    )


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [("Adam", FusedAdam), ("AdamW", FusedAdam), ("Lion", FusedLion), ("Lamb", FusedLamb)],
)
def test_the_defaults_of_an_optimizer(kind, theirs):
    assert kind.lower() in deepspeed_config_module.DEEPSPEED_OPTIMIZERS
    signature = inspect.signature(theirs).parameters
    for name, field in OPTIMIZERS[kind].model_fields.items():
        if name in signature and field.default is not PydanticUndefined:
            assert signature[name].default == field.default, name


def test_the_schedulers_of_deepspeed():
    known = set(lr_schedules.VALID_LR_SCHEDULES)
    assert known == {*DEEPSPEEDS_OWN, "LRRangeTest"}  # the latter is not a training schedule


@pytest.mark.parametrize("kind", DEEPSPEEDS_OWN)
def test_the_parameters_and_defaults_of_a_scheduler(kind):
    signature = inspect.signature(getattr(lr_schedules, kind)).parameters
    in_epochs = {name for name in SCHEDULERS[kind].model_fields if name.endswith("_epochs")}
    ours = SCHEDULERS[kind].model_fields.keys() - in_epochs
    assert ours == signature.keys() - {"optimizer", "last_batch_iteration"}
    # Lengths come from the run, the rate from the optimizer.
    for name in ours - {"warmup_num_steps", "total_num_steps", "warmup_max_lr", "cycle_max_lr"}:
        default = SCHEDULERS[kind].model_fields[name].default
        if default is not PydanticUndefined:
            assert signature[name].default == default, name


@pytest.mark.parametrize(("file", "arm"), ARMS)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_deepspeed_reads_every_shipped_arm_as_we_do(file, arm, on_gpu):
    case = read_case(CONFIGS / file, arm)
    check_deepspeed_keys(case)
    config = deepspeed_config(
        case, split_batch(case, 1), ScheduleLengths(1000, 1_000_000), on_gpu=on_gpu
    )
    assert config.keys() <= keys.DeepSpeedKeys.model_fields.keys() | UNSUPPORTED_KEYS.keys()
    parsed = DeepSpeedConfig(config)
    assert parsed.train_batch_size == case.train_batch_size
    assert parsed.gradient_clipping == case.deepspeed["gradient_clipping"]
    assert parsed.zero_optimization_stage == case.deepspeed["zero_optimization"]["stage"]
    assert parsed.bfloat16_config.enabled == (case.precision == "bf16")
    assert parsed.optimizer_params["lr"] == case.deepspeed["optimizer"]["params"]["lr"]
    assert parsed.scheduler_name in (None, *DEEPSPEEDS_OWN)


def paths(block: Any, prefix: str = "") -> list[str]:
    found = []
    for name, field in block.model_fields.items():
        inner = block_of(field.annotation)
        found += paths(inner, f"{prefix}{name}.") if inner else [prefix + name]
    return found


# Optimizer and scheduler have tests above, the batch size has ours, and use_gds needs a GPU.
APART = ("optimizer", "scheduler", "train_batch_size", "aio.use_gds")
PATHS = [path for path in paths(keys.DeepSpeedKeys) if not path.startswith(APART)]
VALUES = ["true", "false", "0", "1", "3", "1e6", "0.5", "-1", '"cpu"', '"fp32"', '"bf16"', '["x"]']


@pytest.mark.parametrize("base", ["zero_optimization.stage=1", "zero_optimization.stage=3"])
def test_deepspeed_accepts_whatever_we_accept(base):
    accepted = 0
    for path, value in itertools.product(PATHS, VALUES):
        try:
            case = read_case(CONFIGS / "case1.json", "layers4", f"{base},{path}={value}")
            check_deepspeed_keys(case)
        except ConfigError:
            continue
        accepted += 1
        DeepSpeedConfig(
            deepspeed_config(case, split_batch(case, 1), ScheduleLengths(10, 100), on_gpu=True)
        )
    assert accepted > len(PATHS)
