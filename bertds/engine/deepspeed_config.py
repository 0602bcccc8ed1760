"""The configuration that DeepSpeed gets, and checks of the device, before a process group exists."""

import logging
import socket
from collections.abc import Mapping
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from bertds.config.batch import BatchSplit
from bertds.config.case import Case
from bertds.config.optimizer_schema import OUR_OWN, Chosen
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.distributed.world import World
from bertds.errors import ConfigError, DeviceError
from bertds.optim.lr_schedules import (
    DEEPSPEEDS_OWN,
    Factor,
    deepspeed_block,
    lr_lambda,
)

logger = logging.getLogger("bertds")

MONITORS = ("tensorboard", "csv_monitor", "wandb", "comet")


def check_device(case: Case, world: World) -> None:
    """Reject a case that this machine, or this number of processes, cannot run.

    Raises:
        DeviceError: There are fewer GPUs than processes. Or there is no GPU, and the case needs one
            for `run.device`, fp16, its optimizer or a key of DeepSpeed. Or the host lacks what
            offloading to NVMe needs.
        ConfigError: DeepSpeed cannot group the processes as the case asks.
    """
    has_gpu = torch.cuda.is_available()
    count = torch.cuda.device_count()
    if has_gpu and 1 < count < world.local_size:  # one may be a different one for each process
        raise DeviceError(
            f"{world.local_size} processes on {socket.gethostname()} see {count} GPUs: start one "
            "process per GPU, or check CUDA_VISIBLE_DEVICES there"
        )
    if not has_gpu:
        _check_cpu(case)
    zero = case.deepspeed.get("zero_optimization", {})
    _check_nvme(zero)
    group = min(zero.get("zero_hpz_partition_size", 1) or 1, world.world_size)
    if zero.get("stage") == 3 and world.world_size % group:
        raise ConfigError(
            f"zero_optimization.zero_hpz_partition_size is {group}, which does not divide the "
            f"{world.world_size} processes: choose a divisor, such as the GPUs of a host"
        )


def warn_of_one_host(case: Case, world: World) -> None:
    """Warn of a key that has an effect between hosts only."""
    zero = case.deepspeed.get("zero_optimization", {})
    is_used = zero.get("stage") == 3 and zero.get("zero_quantized_gradients")
    if is_used and world.world_size == world.local_size:
        logger.warning(
            "zero_optimization.zero_quantized_gradients is true, which has no effect on one host: "
            "delete it"
        )


def warn_of_stage_0(case: Case) -> None:
    """Warn of a stage at which DeepSpeed keeps a GPU waiting."""
    stage = case.deepspeed.get("zero_optimization", {}).get("stage", 0)
    if torch.cuda.is_available() and stage == 0 and case.precision != "fp32":
        logger.warning(
            "zero_optimization.stage is 0 with %s.enabled, so DeepSpeed waits for the GPU once per "
            "gradient in each step: stage 1 waits once per step",
            case.precision,
        )


def _check_cpu(case: Case) -> None:
    """Reject what DeepSpeed has for GPUs only; it would fail deep inside, or after the start."""
    if case.bertds.run.device == "cuda":
        raise DeviceError(
            f'run.device is "cuda", but torch finds no GPU on {socket.gethostname()}: check '
            'nvidia-smi and CUDA_VISIBLE_DEVICES there, or set it to "any"'
        )
    if case.precision == "fp16":
        raise DeviceError(
            "fp16.enabled is true, but DeepSpeed does not support fp16 on CPU: use bf16 or fp32"
        )
    kind = case.deepspeed["optimizer"]["type"]
    if kind not in ("Adam", "AdamW", *OUR_OWN):
        raise DeviceError(
            f"optimizer.type is '{kind}', which DeepSpeed supports on GPU only: use AdamW or another "
            "optimizer here"
        )
    zero = case.deepspeed.get("zero_optimization", {})
    on_gpu_only = {
        "zero_optimization.zero_quantized_weights": (
            zero.get("stage") == 3 and zero.get("zero_quantized_weights")
        ),
        "aio.use_gds": case.deepspeed.get("aio", {}).get("use_gds"),
    }
    for key in (key for key, is_on in on_gpu_only.items() if is_on):
        raise DeviceError(f"{key} is true, which DeepSpeed supports on GPU only: delete it here")


def _check_nvme(zero: Mapping[str, Any]) -> None:
    """Reject offloading to NVMe where DeepSpeed's module for it cannot be built."""
    offload = zero.get("offload_param") or {}
    if offload.get("device") != "nvme":
        return
    builder = get_accelerator().create_op_builder("AsyncIOBuilder")
    if builder is None or not builder.is_compatible(verbose=False):
        raise DeviceError(
            'zero_optimization.offload_param.device is "nvme", which needs the library libaio with '
            f"its headers on {socket.gethostname()}: install it (libaio-dev), or set the device to "
            '"cpu"'
        )


def custom_lr_lambda(case: Case, lengths: ScheduleLengths) -> Factor | None:
    """The factor of the learning rate by step; None for a scheduler that DeepSpeed runs itself.

    Raises:
        ConfigError: The schedule does not fit the run.
    """
    scheduler = _scheduler_of(case)
    if scheduler is not None and scheduler.type in DEEPSPEEDS_OWN:
        return None
    return lr_lambda(scheduler, lengths, case.deepspeed["optimizer"]["params"]["lr"])


def _scheduler_of(case: Case) -> Chosen | None:
    block = case.deepspeed.get("scheduler")
    return None if block is None else Chosen.model_validate(block)


def deepspeed_config(
    case: Case, split: BatchSplit, lengths: ScheduleLengths, *, on_gpu: bool
) -> dict[str, Any]:
    """The case's own keys with the batch sizes filled in, without the schedulers that we run.

    Raises:
        ValueError: The schedule does not fit the run, or torch's Adam lacks a feature it needs.
    """
    config = dict(case.deepspeed)
    config["train_micro_batch_size_per_gpu"] = split.micro_batch_size
    config["gradient_accumulation_steps"] = split.accumulation
    params = dict(config["optimizer"]["params"])
    if _has_torchs_adam(config, on_gpu=on_gpu):
        # DeepSpeed's own Adam is compiled at the start: two minutes on CPU, with nvcc on GPU.
        params["torch_adam"] = not on_gpu or params.get("torch_adam", True)
    if params.get("torch_adam") and not params.pop("bias_correction", True):
        raise ConfigError(
            "optimizer.params.bias_correction is false, which torch's Adam does not support: leave it out, "
            "or set optimizer.params.torch_adam to false on a GPU"
        )
    if params.get("torch_adam"):
        params["fused"] = True  # one pass over weights and moments instead of a dozen
    config["optimizer"] = {**config["optimizer"], "params": params}
    if config["optimizer"]["type"] in OUR_OWN:  # which DeepSpeed does not know
        del config["optimizer"]
    config["timers"] = {"throughput": {"enabled": False}}  # it would wait for the device each step
    config |= {name: _monitor(case, name) for name in MONITORS if name in config}
    scheduler = _scheduler_of(case)
    config.pop("scheduler", None)
    if scheduler is not None and scheduler.type in DEEPSPEEDS_OWN:
        config["scheduler"] = deepspeed_block(scheduler, lengths, params["lr"])
    return config


def limit_bucket(config: dict[str, Any], num_parameters: int) -> None:
    """Make the bucket that gradients are reduced in no larger than the model, by default.

    DeepSpeed's default is a gigabyte in 16 bits. It allocates the bucket in each backward pass, also
    for a model that fills a tenth of it. The reductions are the same.
    """
    zero = config.get("zero_optimization", {})
    if zero.get("stage", 0) > 0 and "reduce_bucket_size" not in zero:
        size = min(DeepSpeedZeroConfig().reduce_bucket_size, num_parameters)
        config["zero_optimization"] = {**zero, "reduce_bucket_size": size}


def _has_torchs_adam(config: Mapping[str, Any], *, on_gpu: bool) -> bool:
    """Whether torch's Adam can replace DeepSpeed's for this case."""
    optimizer = config["optimizer"]
    if config.get("zero_optimization", {}).get("offload_optimizer"):
        return False
    bias_correction = optimizer["params"].get("bias_correction", True)
    return optimizer["type"] in ("Adam", "AdamW") and (not on_gpu or bias_correction)


def _monitor(case: Case, name: str) -> dict[str, Any]:
    """A monitor's block, with names under which no two arms share an output."""
    block = dict(case.deepspeed[name])
    if name == "wandb":
        return {"group": case.name, **block}
    if name == "comet":  # by default it logs every 100 samples, but it is given steps
        named = {"experiment_name": f"{case.name}/{case.arm}", "mode": "create"}
        return {"samples_log_interval": 1, **named, **block}
    return {**block, "job_name": f"{block.get('job_name', case.name)}/{case.arm}"}
