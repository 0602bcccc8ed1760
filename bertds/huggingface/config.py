"""Writes the `config.json` of a Hugging Face class, and compares one with a case's model.

transformers 4 and 5 use different keys for ModernBERT's local layers and rotary bases. Both sets of
keys are written; either is read. A key that a config.json omits has the class's own default.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bertds.config.schema import ModelConfig
from bertds.huggingface.architectures import (
    DISTILBERT,
    MODERNBERT,
    Architecture,
    architecture_of,
)
from bertds.huggingface.config_keys import DEFAULTS, DISTILBERT_KEYS, KEYS, REQUIRED
from bertds.io.json_files import read_json_object

_MAX_BYTES = 64 << 20  # of a JSON file
_FULL, _SLIDING = "full_attention", "sliding_attention"
_REASONS = {
    "pad_token_id": "the tokenizer's padding token; this class counts positions from it",
    "vocab_size": "a row for each id of the tokenizer; if its added tokens have none, remove them from "
    "tokenizer.json, or give the model more rows with transformers' resize_token_embeddings",
}
"""Of values that no key of `bertds.model` determines."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a Hugging Face directory.

    Raises:
        ValueError: It is missing, or not a JSON object.
    """
    return read_json_object(path, name=path.name, max_bytes=_MAX_BYTES)


def config_json(
    config: ModelConfig, vocab_size: int, special_ids: Mapping[str, int]
) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        config: The model's configuration.
        vocab_size: Number of ids of the tokenizer.
        special_ids: Role ("pad", "cls", "sep") to id, for the roles that exist.

    Raises:
        ConfigError: No class computes the same function as the model.
    """
    architecture = architecture_of(config)
    cls_id, sep_id = special_ids.get("cls"), special_ids.get("sep")
    shared = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "vocab_size": config.padded_vocab_size(vocab_size),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": special_ids["pad"],
        "bos_token_id": cls_id,
        "eos_token_id": sep_id,
    }
    if architecture is MODERNBERT:
        return shared | {"cls_token_id": cls_id, "sep_token_id": sep_id} | _modernbert(config)
    content = shared | {
        "max_position_embeddings": config.max_position_embeddings
        + architecture.first_position(special_ids["pad"]),
        "type_vocab_size": config.type_vocab_size or architecture.token_type_rows,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
    }
    return _distilbert(content) if architecture is DISTILBERT else content


def _distilbert(content: Mapping[str, Any]) -> dict[str, Any]:
    """BERT's keys under DistilBERT's names, without those that the class does not have."""
    names = {ours: theirs for theirs, ours in DISTILBERT_KEYS.items()}
    names |= {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}
    missing = ("layer_norm_eps", "type_vocab_size")
    return {names.get(key, key): value for key, value in content.items() if key not in missing}


def _modernbert(config: ModelConfig) -> dict[str, Any]:
    window = config.local_attention
    every = 1 if window is None else config.global_attn_every_n_layers
    return {
        "max_position_embeddings": config.max_position_embeddings,
        "hidden_activation": config.hidden_act,
        "norm_eps": config.layer_norm_eps,
        "embedding_dropout": config.hidden_dropout_prob,
        "mlp_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        **dict.fromkeys(
            ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), config.bias
        ),
        "decoder_bias": True,
        "classifier_activation": "gelu",
        "local_attention": 128 if window is None else window,
        "global_attn_every_n_layers": every,
        "layer_types": _layer_types(config.num_hidden_layers, every),
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "rope_parameters": {
            _FULL: {"rope_type": "default", "rope_theta": config.rope_theta},
            _SLIDING: {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
    }


def _layer_types(num_layers: int, every: int) -> list[str]:
    return [_SLIDING if layer % every else _FULL for layer in range(num_layers)]


def model_values(
    theirs: Mapping[str, Any], architecture: Architecture, pad_id: int
) -> dict[str, Any]:
    """The keys of `bertds.model` whose values a `config.json` determines.

    Args:
        theirs: The `config.json` of a Hugging Face directory.
        architecture: Its class.
        pad_id: Id of the padding token.

    Raises:
        ValueError: A value has another type than the class expects.
    """
    full = _with_defaults(theirs, architecture)
    with _type_errors(architecture):
        return _model_values(full, architecture, pad_id)


def _model_values(
    full: Mapping[str, Any], architecture: Architecture, pad_id: int
) -> dict[str, Any]:
    keys = KEYS[architecture.name].items()
    values = {ours: full[key] for key, ours in keys if ours not in ("preset", "positions")}
    values["max_position_embeddings"] -= architecture.first_position(pad_id)
    dropouts = {MODERNBERT.name: "mlp_dropout", DISTILBERT.name: "dropout"}
    dropout = dropouts.get(architecture.name, "hidden_dropout_prob")
    values["hidden_dropout_prob"] = full.get(dropout, 0.0 if architecture is MODERNBERT else 0.1)
    if architecture is MODERNBERT:
        types = full["layer_types"]
        every = next((layer for layer in range(1, len(types)) if types[layer] == _FULL), len(types))
        values["global_attn_every_n_layers"] = every if _SLIDING in types else 1
        values |= {key: float(values[key]) for key in ("rope_theta", "local_rope_theta")}
    return values


def row_multiple(rows: Any, num_ids: int) -> int:
    """The least power of two to a multiple of which the ids are padded; 1 if they are not.

    If no power of two gives the rows, the least other number. It is small, so that a vocabulary that is
    extended later gets few rows more. A number of rows below that of the ids gives 1.
    """
    if not isinstance(rows, int) or rows <= num_ids:
        return 1
    powers = [1 << exponent for exponent in range(rows.bit_length())]
    numbers: list[int] = [*powers, *range(rows - num_ids + 1, rows + 1)]
    return next(each for each in numbers if -(-num_ids // each) * each == rows)


def difference(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    architecture: Architecture,
    *,
    ignored: Collection[str] = (),
) -> str:
    """Describe all differences between two configurations; empty if they are the same.

    Args:
        theirs: The `config.json` of a Hugging Face directory.
        ours: The result of `config_json` for the case.
        architecture: The class of the case's model.
        ignored: Keys that are not compared.

    Returns:
        `config.json has num_hidden_layers 12, the case needs 2 (model.num_hidden_layers)`, and
        further ones after semicolons. If the classes differ, only that.

    Raises:
        ValueError: A value has another type than the class expects.
    """
    given, ours = theirs, _normalized(ours, architecture)
    theirs = _with_defaults(theirs, architecture)
    keys = {"model_type": "preset", "vocab_size": "vocab_size"} | KEYS[architecture.name]
    if _SLIDING not in ours.get("layer_types", []):
        keys = {key: our_key for key, our_key in keys.items() if not key.startswith("local_")}
    if theirs.get("model_type") != ours["model_type"]:
        keys = {"model_type": "preset"}
    texts = [
        f"{key} {theirs[key]!r}, no case has another than {value!r}"
        for key, value in REQUIRED.items()
        if theirs.get(key, value) != value
    ]
    for key, our_key in keys.items():
        if key not in ignored and theirs.get(key) != ours[key]:
            by_default = " by default" if key in DEFAULTS[architecture.name].keys() - given else ""
            reason = _REASONS.get(key, f"model.{our_key}")
            texts.append(
                f"{key} {theirs.get(key)!r}{by_default}, the case needs {ours[key]!r} ({reason})"
            )
    return f"config.json has {'; '.join(texts)}" if texts else ""


def _with_defaults(theirs: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """The file's config, normalized.

    Raises:
        ValueError: A value has another type than the class expects.
    """
    with _type_errors(architecture):
        return _normalized(theirs, architecture)


@contextlib.contextmanager
def _type_errors(architecture: Architecture) -> Iterator[None]:
    try:
        yield
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"config.json has a value that {architecture.name} does not accept ({error})"
        ) from error


def _normalized(config: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """A config with its defaults, and with ModernBERT's keys as transformers 4 has them."""
    full: dict[str, Any] = {**DEFAULTS[architecture.name], **config}
    if full.get("model_type") != MODERNBERT.model_type or architecture is not MODERNBERT:
        return full
    if "layer_types" not in full:
        every = full["global_attn_every_n_layers"]
        full["layer_types"] = _layer_types(full["num_hidden_layers"], every)
    rope_parameters = full.get("rope_parameters") or {}
    for layer_type, key in ((_FULL, "global_rope_theta"), (_SLIDING, "local_rope_theta")):
        full[key] = rope_parameters.get(layer_type, {}).get("rope_theta", full.get(key))
    rope_types = {rope.get("rope_type", "default") for rope in rope_parameters.values()}
    full["rope_type"] = "/".join(sorted(rope_types - {"default"})) or "default"
    return full
