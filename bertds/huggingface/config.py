"""`config.json` of a Hugging Face class: written for a model, and compared with one.

ModernBERT's local layers and rotary bases are spelt in two ways, that of transformers 4 and that
of 5; both are written, either is read.
"""

from collections.abc import Mapping
from typing import Any

from bertds.config.schema import ModelConfig
from bertds.huggingface.architectures import (
    BERT,
    MODERNBERT,
    ROBERTA_PRENORM,
    Architecture,
    family_of,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"


# What is compared, theirs to the key of `bertds.model` that it follows from.
_BERT_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "max_position_embeddings": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
}
_MODERNBERT_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_activation": "hidden_act",
    "norm_eps": "layer_norm_eps",
    "max_position_embeddings": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
    "attention_bias": "bias",
    "mlp_bias": "bias",
    "norm_bias": "bias",
    "classifier_bias": "bias",
    "layer_types": "global_attn_every_n_layers",
    "local_attention": "local_attention",
    "global_rope_theta": "rope_theta",
    "local_rope_theta": "local_rope_theta",
    "rope_type": "positions",
    "classifier_activation": "preset",
}
_KEYS = {
    BERT.name: _BERT_KEYS,
    ROBERTA_PRENORM.name: _BERT_KEYS | {"pad_token_id": "preset"},
    MODERNBERT.name: _MODERNBERT_KEYS,
}


# What a file may leave out.
_DEFAULTS = {"tie_word_embeddings": True, "classifier_activation": "gelu"}


def config_json(
    config: ModelConfig, vocab_size: int, special_ids: Mapping[str, int]
) -> dict[str, Any]:
    """The file's content.

    Args:
        config: The architecture.
        vocab_size: V.
        special_ids: Role ("pad", "cls", "sep") to id, for the roles that exist.

    Raises:
        ConfigError: No class computes what the model does.
    """
    family = family_of(config)
    start, end = special_ids.get("cls"), special_ids.get("sep")
    shared = {
        "architectures": [family.name],
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": special_ids["pad"],
        "bos_token_id": start,
        "eos_token_id": end,
    }
    if family is MODERNBERT:
        return shared | {"cls_token_id": start, "sep_token_id": end} | _modernbert(config)
    return shared | {
        "max_position_embeddings": config.max_position_embeddings
        + family.first_position(special_ids["pad"]),
        "type_vocab_size": family.token_type_rows,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
    }


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
    return [_SLIDING if number % every else _FULL for number in range(num_layers)]


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], family: Architecture) -> str:
    """The first fact in which a file is of another architecture; empty if it is the same.

    Args:
        theirs: A directory's `config.json`.
        ours: What `config_json` gives for the case.
        family: The class of the case's model.

    Returns:
        `config.json has num_hidden_layers 12, the case 2 (model.num_hidden_layers)`.
    """
    there, here = _one_spelling(theirs), _one_spelling(ours)
    keys = {"model_type": "preset", "vocab_size": "vocab_size"} | _KEYS[family.name]
    if _SLIDING not in here.get("layer_types", []):
        keys = {key: our_key for key, our_key in keys.items() if not key.startswith("local_")}
    for key, our_key in keys.items():
        if there.get(key) != here[key]:
            return (
                f"config.json has {key} {there.get(key)!r}, the case needs {here[key]!r} "
                f"(model.{our_key})"
            )
    return ""


def _one_spelling(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what it leaves out, and with ModernBERT's keys as transformers 4 has them."""
    found: dict[str, Any] = {**_DEFAULTS, **content}
    if found.get("model_type") != MODERNBERT.model_type:
        return found
    if "layer_types" not in found:
        every = found.get("global_attn_every_n_layers", 3)
        found["layer_types"] = _layer_types(found["num_hidden_layers"], every)
    turns = found.get("rope_parameters") or {}
    for kind, key in ((_FULL, "global_rope_theta"), (_SLIDING, "local_rope_theta")):
        found[key] = turns.get(kind, {}).get("rope_theta", found.get(key))
    kinds = {one.get("rope_type", "default") for one in turns.values()}
    found["rope_type"] = "/".join(sorted(kinds - {"default"})) or "default"
    return found
