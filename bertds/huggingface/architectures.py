"""The Hugging Face classes that our encoder can be, and where each keeps our parameters.

The only owner of their names: export writes by this table, `run.init_from` reads by it. A preset
is its class by construction; other options are a class where the function computed stays the same
(a fixed table of positions is a learned one that nobody trained, no bias is a bias of 0), and are
refused where no class has them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bertds.config.schema import ModelConfig
from bertds.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One class of Hugging Face's transformers."""

    name: str
    model_type: str
    modules: Mapping[str, tuple[str, ...]]
    """Our modules to theirs, `{}` the layer's number; several hold our matrix in equal parts."""
    decoder_bias: str
    """The bias over the vocabulary, which does not always lie with its matrix."""
    token_types: str = ""
    """A table that is added to every token's embedding and that we have not; empty: none."""
    token_type_rows: int = 0
    always_biased: bool = True
    """Whether its linear layers and norms cannot be without biases."""
    counts_positions_from_pad: bool = False
    """Whether positions start at pad_id + 1 (RoBERTa's offset) instead of 0."""

    def places(self, name: str) -> tuple[str, ...]:
        """Their parameters that hold one of ours: one, or the equal parts of its first axis."""
        if name == "head.decoder.bias":
            return (self.decoder_bias,)
        module, kind = name.rsplit(".", 1)
        number = "".join(re.findall(r"layers\.(\d+)\.", module))
        theirs = self.modules[re.sub(r"layers\.\d+\.", "layers.{}.", module)]
        return tuple(f"{one.format(number)}.{kind}" for one in theirs)

    @property
    def own_decoder_bias(self) -> str:
        """The bias of the decoder's module, which is tied to `decoder_bias` as its matrix is."""
        return f"{self.modules['head.decoder'][0]}.bias"

    def first_position(self, pad_id: int) -> int:
        """The row of their position table that a sequence's first token reads."""
        return pad_id + 1 if self.counts_positions_from_pad else 0


_LAYER = "encoder.layers.{}"


def _bert_like(prefix: str, others: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """What BERT and its relatives call alike, and the others."""
    there = f"{prefix}.encoder.layer.{{}}"
    alike = {
        "encoder.embeddings.tokens": f"{prefix}.embeddings.word_embeddings",
        "encoder.embeddings.positions": f"{prefix}.embeddings.position_embeddings",
        "encoder.embeddings.norm": f"{prefix}.embeddings.LayerNorm",
        f"{_LAYER}.attention.output": f"{there}.attention.output.dense",
        f"{_LAYER}.feed_forward.input": f"{there}.intermediate.dense",
        f"{_LAYER}.feed_forward.output": f"{there}.output.dense",
    }
    parts = tuple(f"{there}.attention.self.{part}" for part in ("query", "key", "value"))
    single = {ours: (theirs,) for ours, theirs in (alike | others).items()}
    return single | {f"{_LAYER}.attention.qkv": parts}


BERT = Architecture(
    name="BertForMaskedLM",
    model_type="bert",
    modules=_bert_like(
        "bert",
        {
            f"{_LAYER}.attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
            f"{_LAYER}.feed_forward_norm": "bert.encoder.layer.{}.output.LayerNorm",
            "head.dense": "cls.predictions.transform.dense",
            "head.norm": "cls.predictions.transform.LayerNorm",
            "head.decoder": "cls.predictions.decoder",
        },
    ),
    decoder_bias="cls.predictions.bias",
    token_types="bert.embeddings.token_type_embeddings.weight",
    token_type_rows=2,
)


_ROBERTA = "roberta_prelayernorm"
ROBERTA_PRENORM = Architecture(
    name="RobertaPreLayerNormForMaskedLM",
    model_type="roberta-prelayernorm",
    modules=_bert_like(
        _ROBERTA,
        {
            f"{_LAYER}.attention_norm": f"{_ROBERTA}.encoder.layer.{{}}.attention.LayerNorm",
            f"{_LAYER}.feed_forward_norm": f"{_ROBERTA}.encoder.layer.{{}}.intermediate.LayerNorm",
            "encoder.norm": f"{_ROBERTA}.LayerNorm",
            "head.dense": "lm_head.dense",
            "head.norm": "lm_head.layer_norm",
            "head.decoder": "lm_head.decoder",
        },
    ),
    decoder_bias="lm_head.bias",
    token_types=f"{_ROBERTA}.embeddings.token_type_embeddings.weight",
    token_type_rows=1,
    counts_positions_from_pad=True,
)


MODERNBERT = Architecture(
    name="ModernBertForMaskedLM",
    model_type="modernbert",
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


def family_of(config: ModelConfig) -> Architecture:
    """The class that computes what a model of this architecture computes.

    Raises:
        ConfigError: No class does; the option that stands in the way is named.
    """
    rope = config.positions == "rope"
    found = MODERNBERT if rope else (BERT if config.norm == "post" else ROBERTA_PRENORM)
    for is_in_the_way, key in _obstacles(config, found):
        if is_in_the_way:
            raise ConfigError(
                f"model.{key} is {getattr(config, key)!r} with preset {config.preset!r} and "
                f"positions {config.positions!r}, which Hugging Face's {found.name}, the nearest "
                "class, has not: such a model can be trained and evaluated here only"
            )
    return found


def _obstacles(config: ModelConfig, family: Architecture) -> list[tuple[bool, str]]:
    if family is MODERNBERT:
        return [
            (config.feed_forward != "glu", "feed_forward"),
            (config.norm != "pre", "norm"),
            (config.preset != "modernbert", "preset"),  # its first layer has no norm
        ]
    has_window = config.local_attention is not None and config.global_attn_every_n_layers > 1
    # The head has the encoder's activation in BERT, gelu in RobertaPreLayerNorm; ours by preset.
    own_activation = (config.preset == "bert") != (family is BERT)
    return [
        (config.feed_forward != "mlp", "feed_forward"),
        (has_window, "local_attention"),
        (family is ROBERTA_PRENORM and config.preset == "modernbert", "preset"),
        (own_activation and config.hidden_act != "gelu", "hidden_act"),
    ]
