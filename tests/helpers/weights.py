"""The weights of a checkpoint, read without an engine, and the number of parameters."""

from pathlib import Path

import torch
from torch import Tensor

from bertds.checkpoint.directory import open_checkpoint
from bertds.checkpoint.tensor_files import FragmentReader
from bertds.engine.optimizer_state import WEIGHT


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Read the fp32 weights of a checkpoint directory by name; verifies every file.

    A tied parameter is listed once, under its first name.
    """
    checkpoint = open_checkpoint(directory)
    weights = {}
    with FragmentReader(checkpoint.tensor_files) as reader:
        for name, shape in checkpoint.manifest["parameters"].items():
            weights[name] = torch.empty(shape)
            reader.read_into(WEIGHT, name, 0, weights[name].view(-1))
    return weights


def count_parameters(model: torch.nn.Module) -> int:
    """Count the trained numbers; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
