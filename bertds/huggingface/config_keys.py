"""The keys of each Hugging Face class that a case determines, and the defaults of the class.

The defaults stand for keys that a config.json omits.
"""

from typing import Any

from bertds.huggingface.architectures import (
    BERT,
    CAMEMBERT,
    DISTILBERT,
    MODERNBERT,
    ROBERTA,
    ROBERTA_PRENORM,
    XLM_ROBERTA,
)

# The compared keys of config.json, and the key of `bertds.model` that determines each.
_BERT_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "tie_word_embeddings": "tie_word_embeddings",
}
DISTILBERT_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
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
_ROBERTA_KEYS = _BERT_KEYS | {"pad_token_id": "preset"}
KEYS = {
    BERT.name: _BERT_KEYS,
    ROBERTA_PRENORM.name: _ROBERTA_KEYS,
    ROBERTA.name: _ROBERTA_KEYS,
    XLM_ROBERTA.name: _ROBERTA_KEYS,
    CAMEMBERT.name: _ROBERTA_KEYS,
    DISTILBERT.name: DISTILBERT_KEYS,
    MODERNBERT.name: _MODERNBERT_KEYS,
}


# The values that each class gives to keys that a config.json omits.
_BERT_DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    BERT.name: _BERT_DEFAULTS,
    ROBERTA_PRENORM.name: _BERT_DEFAULTS | {"vocab_size": 50265, "pad_token_id": 1},
    ROBERTA.name: _BERT_DEFAULTS | {"vocab_size": 50265, "pad_token_id": 1},
    XLM_ROBERTA.name: _BERT_DEFAULTS | {"pad_token_id": 1},
    CAMEMBERT.name: _BERT_DEFAULTS | {"pad_token_id": 1},
    DISTILBERT.name: {
        "vocab_size": 30522,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "activation": "gelu",
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    MODERNBERT.name: {
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "classifier_activation": "gelu",
    },
}

# Keys with which a class computes another function than ours, unless they have these values.
REQUIRED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
