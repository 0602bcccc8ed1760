"""The kernel behind the varlen attention of a GPU, for `run.attention`.

PyTorch contains FlashAttention 2. Another version takes over the same operators in the whole process,
so the model does not change.
"""

import importlib.util
import socket

import torch
from torch.nn.attention import (
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
)

from bertds.config.case import Case
from bertds.errors import ConfigError, DeviceError

_PACKAGE = "flash_attn_interface"
_HOPPER = 9  # the major compute capability that FlashAttention 3 is written for
_REJECTED = 'run.attention is "fa3", but'
_REMEDY = 'or set it to "auto"'


def check_flash_attention(case: Case) -> None:
    """Reject a case whose kernel this machine lacks.

    Raises:
        DeviceError: No GPU can run it.
        ConfigError: Its package is not installed.
    """
    if case.bertds.run.attention == "auto":
        return
    host = socket.gethostname()
    if not torch.cuda.is_available():
        raise DeviceError(
            f"{_REJECTED} torch finds no GPU on {host}: check nvidia-smi and CUDA_VISIBLE_DEVICES "
            f"there, {_REMEDY}"
        )
    major, minor = torch.cuda.get_device_capability()
    if major != _HOPPER:
        raise DeviceError(
            f"{_REJECTED} the GPU of {host} has compute capability {major}.{minor}: use one with 9.0 "
            f"(Hopper), {_REMEDY}"
        )
    if importlib.util.find_spec(_PACKAGE) is None:
        raise ConfigError(
            f"{_REJECTED} the package {_PACKAGE} is not installed on {host}: build it from the "
            f"directory hopper of github.com/Dao-AILab/flash-attention, {_REMEDY}"
        )


def activate_flash_attention(case: Case) -> None:
    """Use the kernel of a case from now on in this process.

    Raises:
        ConfigError: Its package cannot be used.
    """
    if case.bertds.run.attention == "auto":
        if current_flash_attention_impl() is not None:  # of an earlier run
            restore_flash_attention_impl()
        return
    try:
        activate_flash_attention_impl("FA3")
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{_REJECTED} the package {_PACKAGE} cannot be used on {socket.gethostname()} ({reason}): "
            f"build it for this PyTorch and this GPU, {_REMEDY}"
        ) from error
