"""A Hugging Face directory to start from: checked against a case by its files alone, then read.

Only safetensors are read, in one file or in several; a pickle can run code and is refused. While a
run starts, each process holds the fp32 weights once.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bertds.config.schema import ModelConfig
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ConfigError
from bertds.huggingface.architectures import Architecture, family_of
from bertds.huggingface.config import config_json, difference
from bertds.huggingface.weights import from_hf_state_dict, to_hf_state_dict
from bertds.io.json_files import read_json_object
from bertds.model.mlm import MaskedLanguageModel

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_BYTES = 64 << 20  # of a JSON file


# What other heads, older versions and tied weights leave in such files; nothing of it is used.
_UNUSED = ("pooler.", "cls.seq_relationship.", "position_ids", "decoder.weight", "decoder.bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Where a tensor lies."""

    path: Path
    key: str
    shape: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """Weights that fit a case's model."""

    directory: Path
    model: MaskedLanguageModel
    """The case's, on the meta device: shapes without memory."""
    pad_id: int
    tensors: Mapping[str, Stored]
    """By their names of today."""

    def weights(self) -> dict[str, Tensor]:
        """The fp32 weights by our names, tied ones once.

        Raises:
            ConfigError: A file cannot be read.
        """
        with contextlib.ExitStack() as stack, _sentences(self.directory):
            paths = {stored.path for stored in self.tensors.values()}
            opened = {path: _open(stack, path) for path in paths}

            def read(name: str) -> Tensor:
                stored = self.tensors[name]
                tensor: Tensor = opened[stored.path].get_tensor(stored.key)
                return tensor

            return from_hf_state_dict(self.model, self.pad_id, read)


def open_pretrained(directory: Path, config: ModelConfig, tokenizer: Tokenizer) -> Pretrained:
    """Check that a directory holds a model of this architecture and vocabulary.

    Args:
        directory: `run.init_from`.
        config: The case's model.
        tokenizer: That of the shards.

    Raises:
        ConfigError: It does not; one sentence names the key, file or tensor.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"run.init_from is {str(directory)!r}, wanted is a directory in Hugging Face's format: "
            "download the model first"
        )
    with _sentences(directory):
        family = family_of(config)
        _check_plain(config, family)
        _check_vocabulary(directory, tokenizer)
        _check_config(directory, config, tokenizer, family)
        tensors = _tensors(directory, family, tied=config.tie_word_embeddings)
        pad_id = tokenizer.special_ids["pad"]
        with torch.device("meta"):
            model = MaskedLanguageModel(config, tokenizer.vocab_size, pad_id)
        _check_tensors(tensors, _wanted_shapes(model, pad_id))
    return Pretrained(directory=directory, model=model, pad_id=pad_id, tensors=tensors)


@contextlib.contextmanager
def _sentences(directory: Path) -> Iterator[None]:
    """Every complaint says whose it is."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(f"run.init_from {directory}: {error}") from error


def _check_plain(config: ModelConfig, family: Architecture) -> None:
    """What export turns into a parameter is none here, so it could not be filled."""
    if config.positions == "sinusoidal":
        raise ValueError(
            f"model.positions is 'sinusoidal', {family.name} has a learned table: set it to "
            "'learned'"
        )
    if family.always_biased and not config.bias:
        raise ValueError(f"model.bias is false, {family.name} has biases: set it to true")


def _check_config(
    directory: Path, config: ModelConfig, tokenizer: Tokenizer, family: Architecture
) -> None:
    theirs = _read_json(directory / "config.json")
    ours = config_json(config, tokenizer.vocab_size, tokenizer.special_ids)
    fault = difference(theirs, ours, family)
    if fault:
        raise ValueError(f"{fault}: make them equal")


def _check_vocabulary(directory: Path, tokenizer: Tokenizer) -> None:
    theirs = Tokenizer.load(directory / "tokenizer.json")
    names = [one.tokens([*range(one.vocab_size)]) for one in (theirs, tokenizer)]
    differing = [n for n, pair in enumerate(zip(*names, strict=False)) if pair[0] != pair[1]]
    if names[0] == names[1]:
        return
    fault = f"{theirs.vocab_size:,} ids, that of the shards {tokenizer.vocab_size:,}"
    if differing:
        there, here = (part[differing[0]] for part in names)
        fault = f"{there!r} as id {differing[0]}, that of the shards {here!r}"
    raise ValueError(
        f"its tokenizer.json has {fault}: make the shards with --tokenizer "
        f"{directory / 'tokenizer.json'}"
    )


def _tensors(directory: Path, family: Architecture, *, tied: bool) -> dict[str, Stored]:
    """The tensors by their names of today; headers are read only."""
    found = {}
    for path in _weight_files(directory):
        with contextlib.ExitStack() as stack:
            file = _open(stack, path)
            for key in file.keys():  # noqa: SIM118  (a safetensors file is no mapping)
                shape = list(file.get_slice(key).get_shape())
                found[_modern(key)] = Stored(path=path, key=key, shape=shape)
    is_used = not tied or family.decoder_bias not in found
    if is_used and family.own_decoder_bias in found:
        found[family.decoder_bias] = found[family.own_decoder_bias]
    return found


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _WHOLE).is_file():
        return [directory / _WHOLE]
    if (directory / _INDEX).is_file():
        names = sorted(set(_read_json(directory / _INDEX).get("weight_map", {}).values()))
        strange = [name for name in names if Path(name).name != name]
        if strange:
            raise ValueError(f"{_INDEX} names a file elsewhere, {strange[0]!r}")
        return [directory / name for name in names]
    pickles = sorted(path.name for path in directory.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{pickles[0]} is a pickle, which could run code and is never read: get or make "
            f"{_WHOLE}"
        )
    raise ValueError(f"there is no {_WHOLE} and no {_INDEX}")


def _wanted_shapes(model: MaskedLanguageModel, pad_id: int) -> dict[str, list[int]]:
    """Those of the tensors that export would write."""
    family = family_of(model.config)
    wanted = {name: list(x.shape) for name, x in to_hf_state_dict(model, pad_id).items()}
    if family.own_decoder_bias != family.decoder_bias:
        wanted.pop(family.own_decoder_bias, None)  # a copy
    return wanted


def _check_tensors(tensors: Mapping[str, Stored], wanted: Mapping[str, list[int]]) -> None:
    for name, shape in wanted.items():
        held = tensors[name].shape if name in tensors else None
        if "token_type" in name and held is not None:
            held, shape = held[1:], shape[1:]  # of any number of types the first is used
        if held != shape:
            there = "is missing" if held is None else f"has shape {held}"
            raise ValueError(f"the tensor {name} {there}, the case's model needs {shape}")
    for name in tensors:
        if name not in wanted and not any(part in name for part in _UNUSED):
            raise ValueError(f"it holds a tensor that the case's model has not, {name}")


def _modern(name: str) -> str:
    """A tensor's name of today: BERT's norms had a gamma and a beta once."""
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
        raise ValueError(f"{path.name} is no whole safetensors file ({error})") from error


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(path, name=path.name, max_bytes=_MAX_BYTES)
