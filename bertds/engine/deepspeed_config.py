"""What DeepSpeed is told, and what this machine cannot do: both known before processes start."""

import socket
from collections.abc import Mapping
from typing import Any

import torch

from bertds.config.batch import BatchSplit
from bertds.config.case import Case
from bertds.config.optimizer_schema import Chosen
from bertds.distributed.world import World
from bertds.errors import ConfigError, DeviceError
from bertds.optim.lr_schedules import (
    DEEPSPEEDS_OWN,
    Factor,
    ScheduleLengths,
    deepspeed_block,
    lr_lambda,
)

MONITORS = ("tensorboard", "csv_monitor", "wandb", "comet")


def check_device(case: Case, world: World) -> None:
    """Refuse what this machine cannot do, before a process group exists.

    Raises:
        DeviceError: There are fewer GPUs than processes; or there is none, and the case asks for
            one, or for fp16 or an optimizer that DeepSpeed has on GPU only.
    """
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if 1 < count < world.local_size:  # one alone may be another one for each process
            raise DeviceError(
                f"{world.local_size} processes on {socket.gethostname()} see {count} GPUs: start as "
                "many processes a host as there are GPUs, or look at CUDA_VISIBLE_DEVICES there"
            )
        return
    if case.bertds.run.device == "cuda":
        raise DeviceError(
            f'run.device is "cuda", but torch finds no GPU on {socket.gethostname()}: look at '
            'nvidia-smi and CUDA_VISIBLE_DEVICES there, or set it to "any"'
        )
    if case.precision == "fp16":
        raise DeviceError(
            "fp16.enabled is true, but DeepSpeed has no fp16 on CPU: use bf16 or fp32"
        )
    kind = case.deepspeed["optimizer"]["type"]
    if kind not in ("Adam", "AdamW"):
        raise DeviceError(
            f"optimizer.type is '{kind}', which DeepSpeed has on GPU only: use Adam or AdamW here"
        )


def custom_lr_lambda(case: Case, lengths: ScheduleLengths) -> Factor | None:
    """The factor of a schedule of ours; None where DeepSpeed runs its own.

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
    """What DeepSpeed gets: a case's own keys, all sizes in numbers, without schedules of ours.

    Raises:
        ValueError: The schedule does not fit the run, or torch's Adam cannot do what is asked.
    """
    config = dict(case.deepspeed)
    config["train_micro_batch_size_per_gpu"] = split.micro_batch_size
    config["gradient_accumulation_steps"] = split.accumulation
    params = dict(config["optimizer"]["params"])
    if _has_torchs_adam(config, on_gpu=on_gpu):
        # DeepSpeed's own is compiled at the start: for two minutes on CPU, with nvcc on GPU.
        params["torch_adam"] = not on_gpu or params.get("torch_adam", True)
    if params.get("torch_adam") and not params.pop("bias_correction", True):
        raise ConfigError("optimizer.params.bias_correction is false, which torch's Adam has not")
    if params.get("torch_adam"):
        params["fused"] = True  # one pass over weights and moments instead of a dozen
    config["optimizer"] = {**config["optimizer"], "params": params}
    config["timers"] = {"throughput": {"enabled": False}}  # it waits for the device each step
    config |= {name: _monitor(case, name) for name in MONITORS if name in config}
    scheduler = _scheduler_of(case)
    config.pop("scheduler", None)
    if scheduler is not None and scheduler.type in DEEPSPEEDS_OWN:
        config["scheduler"] = deepspeed_block(scheduler, lengths, params["lr"])
    return config


def _has_torchs_adam(config: Mapping[str, Any], *, on_gpu: bool) -> bool:
    """Whether torch's Adam can do what the case asks of DeepSpeed's."""
    optimizer = config["optimizer"]
    if config.get("zero_optimization", {}).get("offload_optimizer"):
        return False
    bias_correction = optimizer["params"].get("bias_correction", True)
    return optimizer["type"] in ("Adam", "AdamW") and (not on_gpu or bias_correction)


def _monitor(case: Case, name: str) -> dict[str, Any]:
    """A monitor's block, in which no two arms write into one place."""
    block = dict(case.deepspeed[name])
    if name == "wandb":
        return {"group": case.name, **block}
    if name == "comet":  # which would wait for 100 samples, and is given steps
        named = {"experiment_name": f"{case.name}/{case.arm}", "mode": "create"}
        return {"samples_log_interval": 1, **named, **block}
    return {**block, "job_name": f"{block.get('job_name', case.name)}/{case.arm}"}
