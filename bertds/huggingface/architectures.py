"""The Hugging Face classes that a trained model maps to, and their parameter names.

This module owns the names: export writes them, and `run.init_from` reads them. Each preset is one
class by construction. Other options map to a class if that class can compute the same function: a
fixed position table is a learned table that was not trained, and no bias is a bias of 0. Options
that no class supports are rejected.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bertds.config.presets import PRESETS, PresetName
from bertds.config.schema import ModelConfig
from bertds.errors import ConfigError

TOKEN_TYPES = "encoder.embeddings.token_types.weight"
"""Our name of the token type table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One model class of Hugging Face transformers."""

    name: str
    model_type: str
    preset: PresetName
    modules: Mapping[str, tuple[str, ...]]
    """Our module names to Hugging Face's; `{}` is the layer index. If there are several names, each
    holds an equal part of our matrix along its first axis."""
    decoder_bias: str
    """The bias over the vocabulary. In some classes it is not in the decoder module."""
    token_types: str = ""
    """The token type table; empty if the class has none."""
    token_type_rows: int = 0
    """Its rows in the export of a model without token types."""
    always_biased: bool = True
    """Whether its linear layers and norms always have biases."""
    pair_separators: int = 1
    """The [SEP] tokens between the two texts of a pair."""

    def hf_names(self, name: str) -> tuple[str, ...]:
        """Hugging Face's names for one of our parameters: one, or one per part."""
        if name == "head.decoder.bias":
            return (self.decoder_bias,)
        if name == TOKEN_TYPES:
            return (self.token_types,)
        module, kind = name.rsplit(".", 1)
        layer = "".join(re.findall(r"layers\.(\d+)\.", module))
        hf_modules = self.modules[re.sub(r"layers\.\d+\.", "layers.{}.", module)]
        return tuple(f"{hf_module.format(layer)}.{kind}" for hf_module in hf_modules)

    @property
    def base_prefix(self) -> str:
        """The first part of the encoder's names, which the class without a head omits."""
        return self.modules["encoder.embeddings.tokens"][0].partition(".")[0]

    @property
    def decoder_module_bias(self) -> str:
        """The bias of the decoder module, tied to `decoder_bias` where the embeddings are tied."""
        return f"{self.modules['head.decoder'][0]}.bias"

    def first_position(self, pad_id: int) -> int:
        """The row of its position table that the first token of a sequence reads."""
        return pad_id + 1 if PRESETS[self.preset].counts_positions_from_pad else 0


_LAYER = "encoder.layers.{}"


def _post_norm(prefix: str) -> dict[str, str]:
    """The norms of a layer that is normalised after its residual sums."""
    layer = f"{prefix}.encoder.layer.{{}}"
    return {
        f"{_LAYER}.attention_norm": f"{layer}.attention.output.LayerNorm",
        f"{_LAYER}.feed_forward_norm": f"{layer}.output.LayerNorm",
    }


_ROBERTA_HEAD = {
    "head.dense": "lm_head.dense",
    "head.norm": "lm_head.layer_norm",
    "head.decoder": "lm_head.decoder",
}


def _bert_like(prefix: str, other_modules: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """The module names that BERT and its relatives share, and the other modules of one class."""
    layer = f"{prefix}.encoder.layer.{{}}"
    shared_modules = {
        "encoder.embeddings.tokens": f"{prefix}.embeddings.word_embeddings",
        "encoder.embeddings.positions": f"{prefix}.embeddings.position_embeddings",
        "encoder.embeddings.norm": f"{prefix}.embeddings.LayerNorm",
        f"{_LAYER}.attention.output": f"{layer}.attention.output.dense",
        f"{_LAYER}.feed_forward.input": f"{layer}.intermediate.dense",
        f"{_LAYER}.feed_forward.output": f"{layer}.output.dense",
    }
    qkv = tuple(f"{layer}.attention.self.{part}" for part in ("query", "key", "value"))
    single = {ours: (hf_name,) for ours, hf_name in (shared_modules | other_modules).items()}
    return single | {f"{_LAYER}.attention.qkv": qkv}


BERT = Architecture(
    name="BertForMaskedLM",
    model_type="bert",
    preset="bert",
    modules=_bert_like(
        "bert",
        _post_norm("bert")
        | {
            "head.dense": "cls.predictions.transform.dense",
            "head.norm": "cls.predictions.transform.LayerNorm",
            "head.decoder": "cls.predictions.decoder",
        },
    ),
    decoder_bias="cls.predictions.bias",
    token_types="bert.embeddings.token_type_embeddings.weight",
    token_type_rows=2,
)


_PRENORM = "roberta_prelayernorm"
ROBERTA_PRENORM = Architecture(
    name="RobertaPreLayerNormForMaskedLM",
    model_type="roberta-prelayernorm",
    preset="bert-prenorm",
    modules=_bert_like(
        _PRENORM,
        _ROBERTA_HEAD
        | {
            f"{_LAYER}.attention_norm": f"{_PRENORM}.encoder.layer.{{}}.attention.LayerNorm",
            f"{_LAYER}.feed_forward_norm": f"{_PRENORM}.encoder.layer.{{}}.intermediate.LayerNorm",
            "encoder.norm": f"{_PRENORM}.LayerNorm",
        },
    ),
    decoder_bias="lm_head.bias",
    token_types=f"{_PRENORM}.embeddings.token_type_embeddings.weight",
    token_type_rows=1,
)


ROBERTA = Architecture(
    name="RobertaForMaskedLM",
    model_type="roberta",
    preset="roberta",
    modules=_bert_like("roberta", _ROBERTA_HEAD | _post_norm("roberta")),
    decoder_bias="lm_head.bias",
    token_types="roberta.embeddings.token_type_embeddings.weight",
    token_type_rows=1,
    pair_separators=2,
)
# The same weights under the same names, in classes of other names.
XLM_ROBERTA = dataclasses.replace(
    ROBERTA, name="XLMRobertaForMaskedLM", model_type="xlm-roberta", preset="xlm-roberta"
)
CAMEMBERT = dataclasses.replace(
    ROBERTA, name="CamembertForMaskedLM", model_type="camembert", preset="camembert"
)


_DISTIL = "distilbert.transformer.layer.{}"
DISTILBERT = Architecture(
    name="DistilBertForMaskedLM",
    model_type="distilbert",
    preset="distilbert",
    modules={
        "encoder.embeddings.tokens": ("distilbert.embeddings.word_embeddings",),
        "encoder.embeddings.positions": ("distilbert.embeddings.position_embeddings",),
        "encoder.embeddings.norm": ("distilbert.embeddings.LayerNorm",),
        f"{_LAYER}.attention.qkv": tuple(f"{_DISTIL}.attention.{part}_lin" for part in "qkv"),
        f"{_LAYER}.attention.output": (f"{_DISTIL}.attention.out_lin",),
        f"{_LAYER}.attention_norm": (f"{_DISTIL}.sa_layer_norm",),
        f"{_LAYER}.feed_forward.input": (f"{_DISTIL}.ffn.lin1",),
        f"{_LAYER}.feed_forward.output": (f"{_DISTIL}.ffn.lin2",),
        f"{_LAYER}.feed_forward_norm": (f"{_DISTIL}.output_layer_norm",),
        "head.dense": ("vocab_transform",),
        "head.norm": ("vocab_layer_norm",),
        "head.decoder": ("vocab_projector",),
    },
    decoder_bias="vocab_projector.bias",
)


MODERNBERT = Architecture(
    name="ModernBertForMaskedLM",
    model_type="modernbert",
    preset="modernbert",
    modules={
        "encoder.embeddings.tokens": ("model.embeddings.tok_embeddings",),
        "encoder.embeddings.norm": ("model.embeddings.norm",),
        f"{_LAYER}.attention.qkv": ("model.layers.{}.attn.Wqkv",),
        f"{_LAYER}.attention.output": ("model.layers.{}.attn.Wo",),
        f"{_LAYER}.attention_norm": ("model.layers.{}.attn_norm",),
        f"{_LAYER}.feed_forward.input": ("model.layers.{}.mlp.Wi",),
        f"{_LAYER}.feed_forward.output": ("model.layers.{}.mlp.Wo",),
        f"{_LAYER}.feed_forward_norm": ("model.layers.{}.mlp_norm",),
        "encoder.norm": ("model.final_norm",),
        "head.dense": ("head.dense",),
        "head.norm": ("head.norm",),
        "head.decoder": ("decoder",),
    },
    decoder_bias="decoder.bias",
    always_biased=False,
)


ARCHITECTURES = (
    BERT,
    ROBERTA_PRENORM,
    MODERNBERT,
    ROBERTA,
    XLM_ROBERTA,
    CAMEMBERT,
    DISTILBERT,
)


def architecture_of(config: ModelConfig) -> Architecture:
    """The Hugging Face class that computes the same function as a model with this config.

    Raises:
        ConfigError: No class does; the message names the unsupported option.
    """
    closest = _closest(config)
    for is_unsupported, key in _unsupported_options(config, closest):
        if is_unsupported:
            raise ConfigError(
                f"model.{key} is {getattr(config, key)!r}, which {closest.name} does not support "
                f"(the closest Hugging Face class for preset {config.preset!r} and positions "
                f"{config.positions!r}): this model can be trained and evaluated, but neither "
                "exported nor initialized from Hugging Face weights"
            )
    return closest


def _closest(config: ModelConfig) -> Architecture:
    """The preset's own class, unless it has other positions or norms."""
    if config.positions == "rope":
        return MODERNBERT
    if config.norm == "pre":
        return ROBERTA_PRENORM
    (own,) = (each for each in ARCHITECTURES if each.preset == config.preset)
    return own if config.traits.defaults["norm"] == "post" else BERT


def _unsupported_options(config: ModelConfig, architecture: Architecture) -> list[tuple[bool, str]]:
    """For each option that a class may not support: whether it does not, and the option's key."""
    its, ours = PRESETS[architecture.preset], config.traits
    lacks_norm = config.norm == "pre" and its.first_attention_norm != ours.first_attention_norm
    if architecture is MODERNBERT:
        return [
            (config.feed_forward != "glu", "feed_forward"),
            (config.norm != "pre", "norm"),
            (lacks_norm, "preset"),
            (config.type_vocab_size > 0, "type_vocab_size"),
        ]
    has_window = config.local_attention is not None and config.global_attn_every_n_layers > 1
    # Where the heads differ, they agree if the encoder's activation is gelu as well.
    head_differs = its.gelu_in_head != ours.gelu_in_head
    other_eps = architecture is DISTILBERT and config.layer_norm_eps != 1e-12
    return [
        (config.feed_forward != "mlp", "feed_forward"),
        (has_window, "local_attention"),
        (lacks_norm, "preset"),
        (head_differs and config.hidden_act != "gelu", "hidden_act"),
        (not architecture.token_types and config.type_vocab_size > 0, "type_vocab_size"),
        (other_eps, "layer_norm_eps"),  # no key of its config.json
    ]
