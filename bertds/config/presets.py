"""What `model.preset` means: the defaults of the other keys, and what no key says.

A preset is a Hugging Face architecture. Everything that depends on the preset alone is here; the
names of its class and of its weights are in `bertds.huggingface.architectures`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PresetName = Literal[
    "bert", "bert-prenorm", "modernbert", "roberta", "xlm-roberta", "camembert", "distilbert"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One architecture."""

    defaults: Mapping[str, object]
    """What it sets in place of the defaults of `bertds.model`."""
    gelu_in_head: bool = True
    """Whether the prediction head applies GELU for every `hidden_act`."""
    counts_positions_from_pad: bool = False
    """Whether learned positions start at pad_id + 1 (RoBERTa's offset) instead of 0."""
    first_attention_norm: bool = True
    """Whether the first layer of a model with `norm` pre has a norm before its attention."""
    masking_ratio: float = 0.15
    """The fraction of tokens that was masked when the class was pre-trained."""


_BERT = {"norm": "post", "hidden_act": "gelu", "layer_norm_eps": 1e-12}
# Liu et al., RoBERTa, 2019. XLM-RoBERTa and CamemBERT have the same architecture.
_ROBERTA = Preset(defaults=_BERT | {"layer_norm_eps": 1e-5}, counts_positions_from_pad=True)

PRESETS: dict[PresetName, Preset] = {
    # Devlin et al., BERT, 2019, section 3.1.
    "bert": Preset(defaults=_BERT, gelu_in_head=False),
    "bert-prenorm": Preset(defaults=_BERT | {"norm": "pre"}, counts_positions_from_pad=True),
    # Warner et al., "Smarter, Better, Faster, Longer", 2024, section 2.
    "modernbert": Preset(
        defaults={
            "norm": "pre",
            "positions": "rope",
            "feed_forward": "glu",
            "hidden_act": "gelu",
            "bias": False,
            "hidden_dropout_prob": 0.0,
            "layer_norm_eps": 1e-5,
            "rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
            "local_attention": 128,
            "global_attn_every_n_layers": 3,
            "max_position_embeddings": 8192,
        },
        first_attention_norm=False,
        masking_ratio=0.3,
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Preset(defaults=_BERT, gelu_in_head=False),
}
