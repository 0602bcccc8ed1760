"""The three presets are the architecture of a Hugging Face class: equal weights, equal logits."""

import dataclasses
import re

import pytest
import torch

from bertds.case.config import ModelConfig
from bertds.data.packing import pack
from bertds.model.mlm import MaskedLanguageModel
from tests.model.tensors import PAD, join, make_model, make_sequences, tensors_of

transformers = pytest.importorskip("transformers")

# Hugging Face's name of each of our modules, {} the layer's number.
BERT = {
    "encoder.embeddings.tokens": "bert.embeddings.word_embeddings",
    "encoder.embeddings.positions": "bert.embeddings.position_embeddings",
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
    "encoder.layers.{}.attention.output": "bert.encoder.layer.{}.attention.output.dense",
    "encoder.layers.{}.attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
    "encoder.layers.{}.feed_forward.input": "bert.encoder.layer.{}.intermediate.dense",
    "encoder.layers.{}.feed_forward.output": "bert.encoder.layer.{}.output.dense",
    "encoder.layers.{}.feed_forward_norm": "bert.encoder.layer.{}.output.LayerNorm",
    "head.dense": "cls.predictions.transform.dense",
    "head.norm": "cls.predictions.transform.LayerNorm",
    "head.decoder": "cls.predictions.decoder",
}
ROBERTA = {
    "encoder.embeddings.tokens": "roberta_prelayernorm.embeddings.word_embeddings",
    "encoder.embeddings.positions": "roberta_prelayernorm.embeddings.position_embeddings",
    "encoder.embeddings.norm": "roberta_prelayernorm.embeddings.LayerNorm",
    "encoder.layers.{}.attention.output": (
        "roberta_prelayernorm.encoder.layer.{}.attention.output.dense"
    ),
    "encoder.layers.{}.attention_norm": "roberta_prelayernorm.encoder.layer.{}.attention.LayerNorm",
    "encoder.layers.{}.feed_forward.input": (
        "roberta_prelayernorm.encoder.layer.{}.intermediate.dense"
    ),
    "encoder.layers.{}.feed_forward.output": "roberta_prelayernorm.encoder.layer.{}.output.dense",
    "encoder.layers.{}.feed_forward_norm": (
        "roberta_prelayernorm.encoder.layer.{}.intermediate.LayerNorm"
    ),
    "encoder.norm": "roberta_prelayernorm.LayerNorm",
    "head.dense": "lm_head.dense",
    "head.norm": "lm_head.layer_norm",
    "head.decoder": "lm_head.decoder",
}
MODERNBERT = {
    "encoder.embeddings.tokens": "model.embeddings.tok_embeddings",
    "encoder.embeddings.norm": "model.embeddings.norm",
    "encoder.layers.{}.attention.qkv": "model.layers.{}.attn.Wqkv",
    "encoder.layers.{}.attention.output": "model.layers.{}.attn.Wo",
    "encoder.layers.{}.attention_norm": "model.layers.{}.attn_norm",
    "encoder.layers.{}.feed_forward.input": "model.layers.{}.mlp.Wi",
    "encoder.layers.{}.feed_forward.output": "model.layers.{}.mlp.Wo",
    "encoder.layers.{}.feed_forward_norm": "model.layers.{}.mlp_norm",
    "encoder.norm": "model.final_norm",
    "head.dense": "head.dense",
    "head.norm": "head.norm",
    "head.decoder": "decoder",
}
# Query, key and value are three modules there.
SPLIT = {
    "bert": "bert.encoder.layer.{}.attention.self.",
    "bert-prenorm": "roberta_prelayernorm.encoder.layer.{}.attention.self.",
}
NAMES = {"bert": BERT, "bert-prenorm": ROBERTA, "modernbert": MODERNBERT}


def weights_there(model: MaskedLanguageModel) -> dict[str, torch.Tensor]:
    """Our weights under Hugging Face's names."""
    preset = model.config.preset
    found = {}
    for name, tensor in model.state_dict().items():
        module, kind = name.rsplit(".", 1)
        number = "".join(re.findall(r"layers\.(\d+)\.", module))
        module = re.sub(r"layers\.\d+\.", "layers.{}.", module)
        if module in NAMES[preset]:
            found[f"{NAMES[preset][module].format(number)}.{kind}"] = tensor
            continue
        assert module == "encoder.layers.{}.attention.qkv"
        for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            found[f"{SPLIT[preset].format(number)}{part}.{kind}"] = piece
    return found


def config_there(config: ModelConfig, vocab_size: int) -> "transformers.PretrainedConfig":
    """The configuration of the class that the preset names."""
    same = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "initializer_range", "tie_word_embeddings",
    )  # fmt: skip
    values = {name: getattr(config, name) for name in same}
    values |= {"vocab_size": vocab_size, "pad_token_id": PAD}
    if config.preset == "modernbert":
        return transformers.ModernBertConfig(
            **values,
            max_position_embeddings=config.max_position_embeddings,
            hidden_activation=config.hidden_act,
            norm_eps=config.layer_norm_eps,
            local_attention=config.local_attention,
            global_attn_every_n_layers=config.global_attn_every_n_layers,
            global_rope_theta=config.rope_theta,
            local_rope_theta=config.local_rope_theta,
            bos_token_id=2,
            cls_token_id=2,
            eos_token_id=3,
            sep_token_id=3,
        )
    is_roberta = config.preset == "bert-prenorm"
    offset = PAD + 1 if is_roberta else 0
    kind = transformers.RobertaPreLayerNormConfig if is_roberta else transformers.BertConfig
    return kind(
        **values,
        max_position_embeddings=config.max_position_embeddings + offset,
        hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        type_vocab_size=1,
    )


CLASSES = {
    "bert": "BertForMaskedLM",
    "bert-prenorm": "RobertaPreLayerNormForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
}


@torch.no_grad()
@pytest.mark.parametrize("act", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("preset", list(CLASSES))
def test_logits_equal_those_of_the_class(preset, act):
    model = make_model(preset=preset, hidden_act=act, num_hidden_layers=4, **WINDOW[preset]).eval()
    there = getattr(transformers, CLASSES[preset])(config_there(model.config, 50)).double().eval()
    missing, unknown = there.load_state_dict(weights_there(model), strict=False)
    there.tie_weights()
    assert not unknown
    assert all(
        "token_type" in name or name in ("cls.predictions.bias", "lm_head.bias") for name in missing
    ), missing
    for name, parameter in there.named_parameters():
        if "token_type" in name:
            parameter.zero_()
    for name in set(missing) & {"cls.predictions.bias", "lm_head.bias"}:
        there.get_parameter(name).copy_(model.head.decoder.bias)
    lengths = [32, 5, 17, 1]
    parts = make_sequences(lengths)
    inputs = torch.full((4, 32), PAD)
    for row, part in zip(inputs, parts, strict=True):
        row[: part.inputs.size] = torch.from_numpy(part.inputs)
    logits = there(input_ids=inputs, attention_mask=(inputs != PAD).long()).logits
    rows = tensors_of(pack(join(parts), row_length=0, pad_id=PAD), rows=((1, 128),))
    tolerance = 1e-6 if preset == "modernbert" else 1e-10  # rotary angles have 32 bits
    everywhere = [torch.arange(length) + sum(lengths[:n]) for n, length in enumerate(lengths)]
    for row, (places, length) in enumerate(zip(everywhere, lengths, strict=True)):
        ours = model.logits(dataclasses.replace(rows, masked_M=places))
        torch.testing.assert_close(ours, logits[row, :length], rtol=tolerance, atol=tolerance)


WINDOW = {"bert": {}, "bert-prenorm": {}, "modernbert": {"local_attention": 8}}
