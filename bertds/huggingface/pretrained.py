"""Reads initial weights from a Hugging Face directory, after checking it against a case.

The check reads only the config, the tokenizer and file headers. Each process holds the fp32 weights
once while it starts.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bertds.config.schema import ModelConfig
from bertds.data.new_tokens import pieces_of_new_tokens
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ConfigError
from bertds.huggingface.architectures import Architecture, architecture_of
from bertds.huggingface.config import config_json, difference, read_json, row_multiple
from bertds.huggingface.new_rows import VOCABULARY_TABLES, with_new_rows
from bertds.huggingface.stored_tensors import (
    StoredTensor,
    open_tensors,
    stored_tensors,
)
from bertds.huggingface.tokenizer import standalone_tokenizer
from bertds.huggingface.weights import from_hf_state_dict, to_hf_state_dict
from bertds.model.mlm import MaskedLanguageModel

# Parts of names of tensors that our model has no place for: poolers and other heads.
_OTHER_PARTS = ("pooler.", "cls.seq_relationship.", "classifier.", "qa_outputs.")
# And of copies: tied weights, and buffers of older transformers versions.
_COPIES = (
    "position_ids",
    "token_type_ids",
    "decoder.weight",
    "decoder.bias",
    "vocab_projector.weight",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """Weights that fit a case's model."""

    directory: Path
    model: MaskedLanguageModel
    """The case's model on the meta device: shapes without memory."""
    pad_id: int
    tensors: Mapping[str, StoredTensor]
    """By their names in current transformers versions."""
    has_head: bool
    """Whether it has a head for masked tokens; a bare encoder has none."""
    unplaced: Sequence[str]
    """The names of tensors that our model has no place for."""
    tokenizer: Tokenizer
    """That of the shards: the model's, or one that extends it."""
    new_tokens: Sequence[Sequence[int]]
    """The model's own tokens that each added token replaces; empty if the tokenizer is its own."""

    def weights(self) -> dict[str, Tensor]:
        """Read the fp32 weights by our names, tied weights once; without a head, the encoder's.

        Raises:
            ConfigError: A file cannot be read.
        """
        with _prefix_errors(self.directory), open_tensors(self.tensors) as read:
            weights = from_hf_state_dict(self.model, self.pad_id, read, has_head=self.has_head)
        if not self.new_tokens:
            return weights
        rows = self.model.encoder.embeddings.tokens.num_embeddings
        num_ids = self.tokenizer.vocab_size - len(self.new_tokens)
        return with_new_rows(weights, self.new_tokens, num_ids, rows)

    def unplaced_tensors(self) -> dict[str, Tensor]:
        """Read the tensors that our model has no place for, in fp32.

        Raises:
            ConfigError: A file cannot be read.
        """
        with _prefix_errors(self.directory), open_tensors(self.tensors) as read:
            return {name: read(name).float().contiguous() for name in self.unplaced}

    def notes(self) -> list[str]:
        """What a user should know of how the weights are used."""
        notes = []
        if not self.has_head:
            notes.append("it has no head for masked tokens: a new one starts from random weights")
        if self.new_tokens:
            notes.append(
                f"{len(self.new_tokens):,} tokens are new: each starts at the mean of the tokens that "
                "it replaces"
            )
        if parts := self._differing_parts():
            notes.append(
                f"its tokenizer has another {' and '.join(parts)} than that of the shards, and an "
                "export has its: a text may get other ids than in training"
            )
        if self.unplaced:
            names = ", ".join(self.unplaced)
            notes.append(f"not used in training, and copied into an export: {names}")
        architecture, config = architecture_of(self.model.config), self.model.config
        rows = self.tensors[architecture.token_types].shape[0] if architecture.token_types else 0
        if rows and not config.type_vocab_size:
            notes.append(
                "its token types are added to the positions, and an export has none: set "
                f"model.type_vocab_size to {rows} to keep them"
            )
        return notes

    def _differing_parts(self) -> list[str]:
        """What gives a text other ids in the model's own tokenizer, which is exported."""
        if self.new_tokens:
            return []  # that of the shards is exported
        theirs = Tokenizer.load(self.directory)
        cleaning = standalone_tokenizer(self.tokenizer, add_special_tokens=False)  # as in an export
        both = (each.differing_parts(theirs) for each in (self.tokenizer, cleaning))
        return min(both, key=len)


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
        new_tokens = _new_tokens(directory, tokenizer)
        num_ids = tokenizer.vocab_size - len(new_tokens)
        found = read_json(directory / "config.json")
        _check_config(found, config, tokenizer, num_ids)
        tensors = stored_tensors(directory, architecture, tied=config.tie_word_embeddings)
        pad_id = tokenizer.special_ids["pad"]
        with torch.device("meta"):
            model = MaskedLanguageModel(config, tokenizer.vocab_size, pad_id)
        has_head = any(name in tensors for name in _head_names(model, architecture))
        expected = _expected_shapes(model, pad_id, has_head=has_head)
        if new_tokens:
            _expect_rows(expected, model, architecture, found["vocab_size"])
        unplaced = _check_tensors(tensors, expected)
    return Pretrained(
        directory=directory,
        model=model,
        pad_id=pad_id,
        tensors=tensors,
        has_head=has_head,
        unplaced=unplaced,
        tokenizer=tokenizer,
        new_tokens=new_tokens,
    )


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


def _check_config(
    found: Mapping[str, Any], config: ModelConfig, tokenizer: Tokenizer, num_ids: int
) -> None:
    """Compare config.json with the case's model; the model has rows for `num_ids` tokens."""
    architecture = architecture_of(config)
    expected = config_json(config, num_ids, tokenizer.special_ids)
    ignored = []
    if not config.type_vocab_size:
        ignored.append("type_vocab_size")  # only the first row is read
    if num_ids < tokenizer.vocab_size and found.get("vocab_size", 0) >= num_ids:
        ignored.append("vocab_size")  # its padding is dropped
    else:
        _check_vocab_size(found.get("vocab_size"), expected["vocab_size"], num_ids)
    if fault := difference(found, expected, architecture, ignored=ignored):
        raise ValueError(f"{fault}: change one to match the other")


def _new_tokens(directory: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """The model's own tokens that each token which the shards' tokenizer adds replaces."""
    theirs = Tokenizer.load(directory)
    their_tokens, our_tokens = (t.tokens([*range(t.vocab_size)]) for t in (theirs, tokenizer))
    if their_tokens == our_tokens:
        return []
    pairs = enumerate(zip(their_tokens, our_tokens, strict=False))
    differing = next((number for number, (their, our) in pairs if their != our), None)
    if differing is None and len(our_tokens) > len(their_tokens):
        return pieces_of_new_tokens(theirs, tokenizer)
    if differing is None:
        theirs_has, ours_has = f"{theirs.vocab_size:,} tokens", f"{tokenizer.vocab_size:,}"
    else:
        theirs_has = f"{their_tokens[differing]!r} as token {differing}"
        ours_has = repr(our_tokens[differing])
    raise ValueError(
        f"tokenizer.json has {theirs_has}, but the shards' tokenizer has {ours_has}: create the "
        f"shards with --tokenizer {directory / 'tokenizer.json'}"
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


def _head_names(model: MaskedLanguageModel, architecture: Architecture) -> set[str]:
    """The names of the head's tensors."""
    ours = [name for name, _ in model.named_parameters() if name.startswith("head.")]
    return {hf_name for name in ours for hf_name in architecture.hf_names(name)}


def _expected_shapes(
    model: MaskedLanguageModel, pad_id: int, *, has_head: bool
) -> dict[str, list[int]]:
    """The shapes of the tensors that export would write."""
    architecture = architecture_of(model.config)
    state = to_hf_state_dict(model, pad_id)
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    if architecture.decoder_module_bias != architecture.decoder_bias:
        shapes.pop(architecture.decoder_module_bias, None)  # a copy
    if not has_head:
        head = _head_names(model, architecture)
        shapes = {name: shape for name, shape in shapes.items() if name not in head}
    if architecture.token_types and not model.config.type_vocab_size:
        shapes[architecture.token_types][0] = 0  # only the first row is read
    return shapes


def _expect_rows(
    shapes: dict[str, list[int]],
    model: MaskedLanguageModel,
    architecture: Architecture,
    num_rows: int,
) -> None:
    """Set the rows of the tables over the vocabulary to those that the source has."""
    ours = [name for name, _ in model.named_parameters() if name in VOCABULARY_TABLES]
    for name in {hf_name for each in ours for hf_name in architecture.hf_names(each)}:
        if name in shapes:
            shapes[name][0] = num_rows


def _check_tensors(
    tensors: Mapping[str, StoredTensor], expected: Mapping[str, list[int]]
) -> list[str]:
    """Check names and shapes, and list the tensors that our model has no place for."""
    for name, expected_shape in expected.items():
        shape = tensors[name].shape if name in tensors else None
        first = 1 if expected_shape[:1] == [0] else 0  # any number of rows
        if shape is None:
            raise ValueError(f"tensor {name} is missing, the case's model needs {expected_shape}")
        if shape[first:] != expected_shape[first:]:
            raise ValueError(
                f"tensor {name} has shape {shape}, the case's model needs {expected_shape}"
            )
    others = [name for name in tensors if name not in expected]
    for name in others:
        if not any(part in name for part in (*_OTHER_PARTS, *_COPIES)):
            raise ValueError(f"tensor {name} does not exist in the case's model")
    return sorted(name for name in others if any(part in name for part in _OTHER_PARTS))
