"""Derives the `model` block of a case from the `config.json` of a Hugging Face directory.

The block is checked in the opposite direction: what `config_json` makes of it must agree with the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bertds.config.messages import problems_of
from bertds.config.schema import ModelConfig
from bertds.data.tokenizer import Tokenizer
from bertds.errors import ConfigError
from bertds.huggingface.architectures import ARCHITECTURES
from bertds.huggingface.config import (
    config_json,
    difference,
    model_values,
    read_json,
    row_multiple,
)

_MLM_CLASSES = ("ForMaskedLM", "ForPreTraining")
_BY_TYPE = {architecture.model_type: architecture for architecture in ARCHITECTURES}
_ALWAYS_SHOWN = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


def model_block(directory: Path) -> dict[str, Any]:
    """The `model` block of a case that continues a model, without the keys that a preset sets.

    Args:
        directory: A Hugging Face directory with `config.json` and `tokenizer.json`.

    Raises:
        ConfigError: A file is missing or malformed, or no case can have this architecture.
    """
    try:
        found = read_json(directory / "config.json")
        tokenizer = Tokenizer.load(directory)
        return _model_block(found, tokenizer)
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}") from error


def has_mlm_head(directory: Path) -> bool:
    """Whether `config.json` names a class with a head for masked tokens.

    A file that names no class is taken for one with a head.
    """
    names = read_json(directory / "config.json").get("architectures") or [_MLM_CLASSES[0]]
    return any(str(name).endswith(_MLM_CLASSES) for name in names)


def _model_block(found: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    kind = found.get("model_type")
    if not isinstance(kind, str) or kind not in _BY_TYPE:
        known = ", ".join(_BY_TYPE)
        raise ValueError(f"config.json has model_type {kind!r}, expected one of {known}")
    architecture = _BY_TYPE[kind]
    preset = architecture.preset
    block = {"preset": preset, **model_values(found, architecture, tokenizer.special_ids["pad"])}
    multiple = row_multiple(found.get("vocab_size"), tokenizer.vocab_size)
    if multiple > 1:
        block["pad_vocab_to_multiple_of"] = multiple
    try:
        model = ModelConfig.model_validate(block)
    except ValidationError as error:
        texts = [problem.text for problem in problems_of("model", ModelConfig, error)]
        raise ValueError(f"no case can have this architecture: {'; '.join(texts)}") from error
    ours = config_json(model, tokenizer.vocab_size, tokenizer.special_ids)
    if fault := difference(found, ours, architecture):
        raise ValueError(f"no case can have this architecture: {fault}")
    defaults = ModelConfig.model_validate(
        {"preset": preset} | {key: block[key] for key in _ALWAYS_SHOWN}
    )
    return {
        key: value
        for key, value in block.items()
        if key in ("preset", *_ALWAYS_SHOWN) or value != getattr(defaults, key)
    }
