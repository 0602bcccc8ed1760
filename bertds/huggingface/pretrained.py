"""Reads initial weights from a Hugging Face directory, after checking it against a case.

The check reads only the config, the tokenizer and file headers. Weights are read from safetensors,
in one file or several. Pickles are rejected, because loading one can run code. Each process holds
the fp32 weights once while it starts.
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
from bertds.huggingface.architectures import Architecture, architecture_of
from bertds.huggingface.config import config_json, difference, row_multiple
from bertds.huggingface.weights import from_hf_state_dict, to_hf_state_dict
from bertds.io.json_files import read_json_object
from bertds.model.mlm import MaskedLanguageModel

_SINGLE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_BYTES = 64 << 20  # of a JSON file


# Parts of tensor names that a file may hold and that are not read: other heads, tensors of older
# transformers versions, and copies of tied weights.
_UNUSED = ("pooler.", "cls.seq_relationship.", "position_ids", "decoder.weight", "decoder.bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file."""

    path: Path
    key: str
    """Its name in the file."""
    shape: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """Weights that fit a case's model."""

    directory: Path
    model: MaskedLanguageModel
    """The case's model on the meta device: shapes without memory."""
    pad_id: int
    tensors: Mapping[str, StoredTensor]
    """By their names in current transformers versions."""

    def weights(self) -> dict[str, Tensor]:
        """Read the fp32 weights by our names, tied weights once.

        Raises:
            ConfigError: A file cannot be read.
        """
        with contextlib.ExitStack() as stack, _prefix_errors(self.directory):
            paths = {stored.path for stored in self.tensors.values()}
            files = {path: _open(stack, path) for path in paths}

            def read(name: str) -> Tensor:
                stored = self.tensors[name]
                tensor: Tensor = files[stored.path].get_tensor(stored.key)
                return tensor

            return from_hf_state_dict(self.model, self.pad_id, read)


def open_pretrained(directory: Path, config: ModelConfig, tokenizer: Tokenizer) -> Pretrained:
    """Check that a directory holds a model with the case's architecture and vocabulary.

    Args:
        directory: `run.init_from`.
        config: The case's model.
        tokenizer: The tokenizer of the shards.

    Raises:
        ConfigError: It does not; the message names the key, file or tensor.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"run.init_from is {str(directory)!r}, expected a directory in Hugging Face's format: "
            "download the model first"
        )
    with _prefix_errors(directory):
        architecture = architecture_of(config)
        _check_options(config, architecture)
        _check_vocabulary(directory, tokenizer)
        expected = config_json(config, tokenizer.vocab_size, tokenizer.special_ids)
        found = _read_json(directory / "config.json")
        _check_vocab_size(found.get("vocab_size"), expected["vocab_size"], tokenizer.vocab_size)
        fault = difference(found, expected, architecture)
        if fault:
            raise ValueError(f"{fault}: change one to match the other")
        tensors = _stored_tensors(directory, architecture, tied=config.tie_word_embeddings)
        pad_id = tokenizer.special_ids["pad"]
        with torch.device("meta"):
            model = MaskedLanguageModel(config, tokenizer.vocab_size, pad_id)
        _check_tensors(tensors, _expected_shapes(model, pad_id))
    return Pretrained(directory=directory, model=model, pad_id=pad_id, tensors=tensors)


@contextlib.contextmanager
def _prefix_errors(directory: Path) -> Iterator[None]:
    """Add the key and the directory to the message of every error."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(f"run.init_from {directory}: {error}") from error


def _check_options(config: ModelConfig, architecture: Architecture) -> None:
    """Reject options whose tensors export adds: our model has no parameters to read them into."""
    if config.positions == "sinusoidal":
        raise ValueError(
            f"model.positions is 'sinusoidal', but {architecture.name} has learned positions: set "
            "it to 'learned'"
        )
    if architecture.always_biased and not config.bias:
        raise ValueError(f"model.bias is false, but {architecture.name} has biases: set it to true")


def _check_vocabulary(directory: Path, tokenizer: Tokenizer) -> None:
    path = directory / "tokenizer.json"
    theirs = Tokenizer.load(path)
    their_tokens, our_tokens = (t.tokens([*range(t.vocab_size)]) for t in (theirs, tokenizer))
    if their_tokens == our_tokens:
        return
    pairs = enumerate(zip(their_tokens, our_tokens, strict=False))
    differing = next((number for number, (their, our) in pairs if their != our), None)
    if differing is None:
        theirs_has, ours_has = f"{theirs.vocab_size:,} tokens", f"{tokenizer.vocab_size:,}"
    else:
        theirs_has = f"{their_tokens[differing]!r} as token {differing}"
        ours_has = repr(our_tokens[differing])
    raise ValueError(
        f"tokenizer.json has {theirs_has}, but the shards' tokenizer has {ours_has}: create the "
        f"shards with --tokenizer {path}"
    )


def _check_vocab_size(found: Any, expected: int, num_ids: int) -> None:
    """Check the rows of the embedding; a vocabulary may be padded beyond its tokenizer."""
    if not isinstance(found, int) or found == expected or found < num_ids:
        return  # compared with the other keys of the config
    raise ValueError(
        f"config.json has vocab_size {found:,} for the {num_ids:,} ids of its tokenizer, but the "
        f"case's model has {expected:,}: set model.pad_vocab_to_multiple_of to "
        f"{row_multiple(found, num_ids)}, which gives the same number of rows"
    )


def _stored_tensors(
    directory: Path, architecture: Architecture, *, tied: bool
) -> dict[str, StoredTensor]:
    """The tensors by their current names; only file headers are read."""
    tensors = {}
    for path in _weight_files(directory):
        with contextlib.ExitStack() as stack:
            file = _open(stack, path)
            for key in file.keys():  # noqa: SIM118  (a safetensors file is not a mapping)
                shape = list(file.get_slice(key).get_shape())
                tensors[_current_name(key)] = StoredTensor(path=path, key=key, shape=shape)
    bias, module_bias = architecture.decoder_bias, architecture.decoder_module_bias
    if module_bias in tensors and (not tied or bias not in tensors):
        tensors[bias] = tensors[module_bias]
    return tensors


def _weight_files(directory: Path) -> list[Path]:
    if (directory / _SINGLE_FILE).is_file():
        return [directory / _SINGLE_FILE]
    if (directory / _INDEX).is_file():
        names = sorted(set(_read_json(directory / _INDEX).get("weight_map", {}).values()))
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
    raise ValueError(f"neither {_SINGLE_FILE} nor {_INDEX} exists")


def _expected_shapes(model: MaskedLanguageModel, pad_id: int) -> dict[str, list[int]]:
    """The shapes of the tensors that export would write."""
    architecture = architecture_of(model.config)
    state = to_hf_state_dict(model, pad_id)
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    if architecture.decoder_module_bias != architecture.decoder_bias:
        shapes.pop(architecture.decoder_module_bias, None)  # a copy
    return shapes


def _check_tensors(tensors: Mapping[str, StoredTensor], expected: Mapping[str, list[int]]) -> None:
    for name, expected_shape in expected.items():
        shape = tensors[name].shape if name in tensors else None
        # Of the token types only the first is read, so their number may differ.
        first = 1 if "token_type" in name else 0
        if shape is None:
            raise ValueError(f"tensor {name} is missing, the case's model needs {expected_shape}")
        if shape[first:] != expected_shape[first:]:
            raise ValueError(
                f"tensor {name} has shape {shape}, the case's model needs {expected_shape}"
            )
    for name in tensors:
        if name not in expected and not any(part in name for part in _UNUSED):
            raise ValueError(f"tensor {name} does not exist in the case's model")


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


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(path, name=path.name, max_bytes=_MAX_BYTES)
