"""The tensors of a Hugging Face directory, by their names in current transformers versions.

They are read from safetensors, in one file or several. Pickles are rejected, because loading one can
run code. Names and shapes come from the headers of the files alone.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bertds.huggingface.architectures import Architecture
from bertds.huggingface.config import read_json

SINGLE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file."""

    path: Path
    key: str
    """Its name in the file."""
    shape: list[int]


def stored_tensors(
    directory: Path, architecture: Architecture, *, tied: bool
) -> dict[str, StoredTensor]:
    """The tensors of a directory; only file headers are read.

    Args:
        directory: A Hugging Face directory.
        architecture: Its class.
        tied: Whether the output layer shares its matrix with the token embedding.

    Raises:
        ValueError: A file is missing or damaged, or there are only pickles.
    """
    found = {}
    for path in _weight_files(directory):
        with contextlib.ExitStack() as stack:
            file = _open(stack, path)
            for key in file.keys():  # noqa: SIM118  (a safetensors file is not a mapping)
                shape = list(file.get_slice(key).get_shape())
                found[_current_name(key)] = StoredTensor(path=path, key=key, shape=shape)
    tensors = _with_prefix(found, f"{architecture.base_prefix}.")
    bias, module_bias = architecture.decoder_bias, architecture.decoder_module_bias
    if module_bias in tensors and (not tied or bias not in tensors):
        tensors[bias] = tensors[module_bias]
    return tensors


@contextlib.contextmanager
def open_tensors(tensors: Mapping[str, StoredTensor]) -> Iterator[Callable[[str], Tensor]]:
    """Give a function that reads one tensor by its name.

    Raises:
        ValueError: A file is damaged.
    """
    with contextlib.ExitStack() as stack:
        files = {path: _open(stack, path) for path in {stored.path for stored in tensors.values()}}

        def read(name: str) -> Tensor:
            stored = tensors[name]
            tensor: Tensor = files[stored.path].get_tensor(stored.key)
            return tensor

        yield read


def _weight_files(directory: Path) -> list[Path]:
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    if (directory / _INDEX).is_file():
        names = sorted(set(read_json(directory / _INDEX).get("weight_map", {}).values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise ValueError(f"{_INDEX} names a file outside the directory: {outside[0]!r}")
        return [directory / name for name in names]
    pickles = sorted(path.name for path in directory.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{pickles[0]} is a pickle, which can run code and is not read here: convert it with "
            f"python -m bertds convert {directory / pickles[0]} --out DIR"
        )
    raise ValueError(f"neither {SINGLE_FILE} nor {_INDEX} exists")


def _with_prefix(tensors: dict[str, StoredTensor], prefix: str) -> dict[str, StoredTensor]:
    """The names as a class with a head has them: a bare encoder's lack the prefix."""
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _current_name(name: str) -> str:
    """A tensor's name in current transformers versions: BERT's norms once had gamma and beta."""
    module, _, kind = name.rpartition(".")
    if module.endswith("LayerNorm"):
        kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
    return f"{module}.{kind}"


def _open(stack: contextlib.ExitStack, path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a complete safetensors file ({error})") from error
