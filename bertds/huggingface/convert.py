"""Converts pickled weights to safetensors, with a loader that runs no code of the file.

Everything else reads safetensors only. A pickle is opened here alone, on command.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bertds.errors import ConfigError
from bertds.io.json_files import read_json_object

WEIGHTS = "model.safetensors"
_INDEX_SUFFIX = ".index.json"
_COPIED = ("*.json", "*.txt", "*.model", "README.md", "LICENSE*")
"""Files beside the weights that belong to the model."""
_MAX_BYTES = 64 << 20


def convert(weights: Path, out: Path) -> list[str]:
    """Write a Hugging Face directory with the weights of a pickle as safetensors.

    Args:
        weights: `pytorch_model.bin`, or `pytorch_model.bin.index.json` of weights in several files.
        out: The directory to create; configuration and tokenizer beside the pickle are copied.

    Returns:
        The names of the files in it.

    Raises:
        ConfigError: The file is missing, damaged, or holds anything else than tensors.
    """
    if out.exists():
        raise ConfigError(f"--out {out} exists: choose another directory, or delete it")
    if not weights.is_file():
        raise ConfigError(f"{weights} is not a file: name a pytorch_model.bin")
    tensors: dict[str, Tensor] = {}
    for path in _files(weights):
        tensors |= _load(path)
    out.mkdir(parents=True)
    try:
        # Clones: safetensors rejects tensors that share memory, as tied weights do.
        copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(copies, out / WEIGHTS, metadata={"format": "pt"})
        for path in {path for pattern in _COPIED for path in weights.parent.glob(pattern)}:
            if not path.name.endswith(_INDEX_SUFFIX):
                shutil.copyfile(path, out / path.name)
    except BaseException:
        shutil.rmtree(out)
        raise
    return sorted(path.name for path in out.iterdir())


def _files(weights: Path) -> list[Path]:
    if not weights.name.endswith(_INDEX_SUFFIX):
        return [weights]
    index = read_json_object(weights, name=weights.name, max_bytes=_MAX_BYTES)
    weight_map = index.get("weight_map")
    names = {*weight_map.values()} if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ConfigError(f"{weights} has no weight_map with the names of files beside it")
    return [weights.parent / name for name in sorted(names)]


def _load(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: the index names it") from error
    except Exception as error:  # a damaged file raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} cannot be read as weights only, without running its code: {reason}"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(each, Tensor) for each in content.values()
    ):
        raise ConfigError(
            f"{path} holds other objects than tensors by name: it is not a model's weights"
        )
    return content
