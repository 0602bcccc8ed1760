"""Our tables of DeepSpeed's keys against the installed DeepSpeed, so that an upgrade is noticed."""

import inspect
import itertools
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.ops.lamb import FusedLamb
from deepspeed.ops.lion import FusedLion
from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
from deepspeed.runtime import config as deepspeed_config_module
from deepspeed.runtime import constants, lr_schedules
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.swap_tensor.aio_config import get_aio_config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
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
from bertds.config.unsupported_keys import REFUSED
from bertds.engine.deepspeed_config import deepspeed_config
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
    """A block that remembers which keys were asked for."""

    asked: set[str] = set()  # noqa: RUF012 - shared with the copies that DeepSpeed makes

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self.asked.add(key)
        return super().__contains__(key)

    def keys(self):
        return self


@pytest.fixture(scope="module")
def top_level() -> set[str]:
    """The keys that DeepSpeed looks for in a configuration."""
    Watched.asked.clear()
    DeepSpeedConfig(
        Watched(
            train_batch_size=1,
            optimizer={"type": "Adam", "params": {}},
            scheduler={"type": "WarmupLR", "params": {}},
        )
    )
    return set(Watched.asked)


def test_each_key_that_deepspeed_reads_is_known_or_refused_with_a_reason(top_level):
    # Read only where the processes are grouped otherwise than here.
    elsewhere = {"sequence_parallel_size"}
    assert top_level | elsewhere == keys.DeepSpeedKeys.model_fields.keys() | REFUSED.keys()
    assert not keys.DeepSpeedKeys.model_fields.keys() & REFUSED.keys()


def test_what_deepspeed_has_removed_is_refused():
    removed = deepspeed_config_module._REMOVED_TOP_LEVEL_CONFIG_KEYS
    assert removed.keys() <= REFUSED.keys()
    for key in removed:
        assert "DeepSpeed 0.19 has removed it" in REFUSED[key]


def test_deepspeed_still_ignores_a_misspelt_key():
    """Why a case file is checked here."""
    parsed = DeepSpeedConfig({"train_batch_size": 1, "gradient_cliping": 7.0})
    assert parsed.gradient_clipping == 1.0


def test_the_hidden_defaults_that_a_case_file_must_not_rely_on():
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


def test_defaults_of_single_values():
    parsed = DeepSpeedConfig({"train_batch_size": 1})
    for name, field in keys.DeepSpeedKeys.model_fields.items():
        if isinstance(field.default, bool | float):
            assert getattr(parsed, name) == field.default, name


# Fields of DeepSpeed's that are not offered: old spellings, other features' switches, and what
# would take away a figure that is logged (compute_grad_norm).
NOT_OFFERED = {
    "Zero": {
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


def plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def defaults(block: Any) -> dict[str, Any]:
    """A pydantic model's keys as a file spells them, with their defaults."""
    return {
        field.alias or name: plain(field.get_default(call_default_factory=True))
        for name, field in block.model_fields.items()
    }


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (keys.Bf16, DeepSpeedBF16Config),
        (keys.Fp16, DeepSpeedFP16Config),
        (keys.Zero, DeepSpeedZeroConfig),
        (keys.OffloadParam, DeepSpeedZeroOffloadParamConfig),
        (keys.OffloadOptimizer, DeepSpeedZeroOffloadOptimizerConfig),
        (keys.CommsLogger, CommsLoggerConfig),
        (keys.FileMonitor, TensorBoardConfig),
        (keys.FileMonitor, CSVConfig),
        (keys.Wandb, WandbConfig),
        (keys.Comet, CometConfig),
    ],
)
def test_a_block_has_deepspeeds_keys_and_defaults(ours, theirs):
    wanted = defaults(theirs)
    for name in NOT_OFFERED.get(ours.__name__, set()):
        del wanted[name]
    found = {name: list(v) if isinstance(v, tuple) else v for name, v in defaults(ours).items()}
    assert found == wanted


def test_the_profilers_keys_and_defaults():
    profiler = DeepSpeedFlopsProfilerConfig({"flops_profiler": {}})
    assert defaults(keys.FlopsProfiler) == vars(profiler)


def test_the_keys_of_asynchronous_reads_and_writes():
    assert defaults(keys.Aio) == get_aio_config({})


def test_the_type_of_summed_gradients():
    assert keys.DataTypes.model_fields.keys() == {constants.GRAD_ACCUM_DTYPE}


def test_sizes_may_be_written_as_deepspeeds_users_write_them():
    written = {"reduce_bucket_size": 5e8, "stage3_prefetch_bucket_size": 5e7}
    keys.Zero.model_validate(written)
    assert DeepSpeedZeroConfig(**written).prefetch_bucket_size == 50_000_000


def parameters(function: Any, *without: str) -> set[str]:
    return set(inspect.signature(function).parameters) - {"params", *without}


def test_the_parameters_of_adam():
    fused = parameters(FusedAdam, "amsgrad", "set_grad_none")
    for kind in ("Adam", "AdamW"):
        assert OPTIMIZERS[kind].model_fields.keys() == fused | {"torch_adam"}
    # adam_w_mode and torch_adam choose the class; bias_correction is taken out for torch's.
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


def test_deepspeeds_schedulers():
    known = set(lr_schedules.VALID_LR_SCHEDULES)
    assert known == {*DEEPSPEEDS_OWN, "LRRangeTest"}  # the latter is not a training schedule


@pytest.mark.parametrize("kind", DEEPSPEEDS_OWN)
def test_a_schedulers_parameters_and_defaults(kind):
    signature = inspect.signature(getattr(lr_schedules, kind)).parameters
    in_epochs = {name for name in SCHEDULERS[kind].model_fields if name.endswith("_epochs")}
    ours = SCHEDULERS[kind].model_fields.keys() - in_epochs
    assert ours == signature.keys() - {"optimizer", "last_batch_iteration"}
    # Lengths come from the run, the rate from the optimizer.
    filled_in = {"warmup_num_steps", "total_num_steps", "warmup_max_lr"}
    for name in ours - filled_in:
        default = SCHEDULERS[kind].model_fields[name].default
        if default is not PydanticUndefined:
            assert signature[name].default == default, name


@pytest.mark.parametrize(("file", "arm"), ARMS)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_deepspeed_reads_every_arm_as_we_do(file, arm, on_gpu):
    case = read_case(CONFIGS / file, arm)
    given = deepspeed_config(
        case, split_batch(case, 1), ScheduleLengths(1000, 1_000_000), on_gpu=on_gpu
    )
    assert given.keys() <= keys.DeepSpeedKeys.model_fields.keys() | REFUSED.keys()
    parsed = DeepSpeedConfig(given)
    assert parsed.train_batch_size == case.train_batch_size
    assert parsed.gradient_clipping == case.deepspeed["gradient_clipping"]
    assert parsed.zero_optimization_stage == case.deepspeed["zero_optimization"]["stage"]
    assert parsed.bfloat16_config.enabled == (case.precision == "bf16")
    assert parsed.optimizer_params["lr"] == case.deepspeed["optimizer"]["params"]["lr"]
    assert parsed.scheduler_name in (None, *DEEPSPEEDS_OWN)


def test_deepspeed_accepts_every_block_that_we_accept():
    """All keys at their defaults, which differ from DeepSpeed's in nothing."""
    block = keys.DeepSpeedKeys.model_validate(
        {
            "train_batch_size": 8,
            "gradient_clipping": 0,
            "optimizer": {"type": "Adam", "params": {}},
            "zero_optimization": {
                "stage": 3,
                "offload_param": {"device": "nvme", "nvme_path": "scratch"},
                "offload_optimizer": {"device": "cpu"},
            },
        }
    )
    # The largest number of all, 2 ** 63 - 1, is none as a float.
    without = {"scheduler": True, "zero_optimization": {"stage3_model_persistence_threshold"}}
    parsed = DeepSpeedConfig(block.model_dump(mode="json", exclude=without))
    assert parsed.zero_config.offload_optimizer.device == "cpu"
    assert parsed.zero_config.offload_param.device == "nvme"
    assert parsed.zero_config.reduce_bucket_size == 500_000_000


def paths(block: Any, prefix: str = "") -> list[str]:
    found = []
    for name, field in block.model_fields.items():
        inner = block_of(field.annotation)
        found += paths(inner, f"{prefix}{name}.") if inner else [prefix + name]
    return found


# The type of their own blocks, our own numbers, and a switch that needs a GPU to be there.
APART = ("optimizer", "scheduler", "train_batch_size", "aio.use_gds")
PATHS = [path for path in paths(keys.DeepSpeedKeys) if not path.startswith(APART)]
VALUES = ["true", "false", "0", "1", "3", "1e6", "0.5", "-1", '"cpu"', '"fp32"', '"bf16"', '["x"]']


@pytest.mark.parametrize("base", ["zero_optimization.stage=1", "zero_optimization.stage=3"])
def test_whatever_we_accept_deepspeed_accepts(base):
    accepted = 0
    for path, value in itertools.product(PATHS, VALUES):
        try:
            case = read_case(CONFIGS / "case1.json", "layers4", f"{base},{path}={value}")
        except ConfigError:
            continue
        accepted += 1
        DeepSpeedConfig(
            deepspeed_config(case, split_batch(case, 1), ScheduleLengths(10, 100), on_gpu=True)
        )
    assert accepted > len(PATHS)
