"""The weights of a checkpoint, read without an engine, and the number of a model's."""

from pathlib import Path

import torch
from torch import Tensor

from bertds.checkpoint.directory import open_checkpoint
from bertds.checkpoint.tensor_files import FragmentReader
from bertds.engine.optimizer_state import WEIGHT


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The fp32 weights of a checkpoint's folder, whole and by name, every file verified.

    Tied parameters are there once, under the first of their names.
    """
    checkpoint = open_checkpoint(folder)
    weights = {}
    with FragmentReader(checkpoint.tensor_files) as reader:
        for name, shape in checkpoint.manifest["parameters"].items():
            weights[name] = torch.empty(shape)
            reader.read_into(WEIGHT, name, 0, weights[name].view(-1))
    return weights


def count_parameters(model: torch.nn.Module) -> int:
    """Numbers that are trained, each shared one once."""
    return sum(parameter.numel() for parameter in model.parameters())
