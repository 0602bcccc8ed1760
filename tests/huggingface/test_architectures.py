"""Every preset and supported option is a Hugging Face class: equal logits, equal gradients."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from bertds.config.schema import ModelConfig
from bertds.data.packing import MaskedSequences, pack
from bertds.errors import ConfigError
from bertds.huggingface.architectures import architecture_of
from bertds.huggingface.config import config_json
from bertds.huggingface.weights import from_hf_state_dict, to_hf_state_dict
from bertds.model.mlm import MaskedLanguageModel
from tests.helpers.tensors import (
    MASK,
    PAD,
    ROW,
    SMALL,
    VOCAB,
    make_model,
    make_sequences,
    tensors_of,
)

transformers = pytest.importorskip("transformers")
SPECIAL_IDS = {"pad": PAD, "cls": 2, "sep": 3, "mask": MASK}
PRESETS = {
    "bert": "BertForMaskedLM",
    "bert-prenorm": "RobertaPreLayerNormForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "camembert": "CamembertForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
}
LOCAL = {"preset": "modernbert", "num_hidden_layers": 4}


# The options of each preset, and options between the presets that are a class as well.
MODELS = {
    **{f"{preset} {act}": {"preset": preset, "hidden_act": act, "local_attention": 8}
       for preset in PRESETS for act in ("relu", "gelu", "silu")},
    **{f"{preset} untied": {"preset": preset, "tie_word_embeddings": False} for preset in PRESETS},
    **{f"{preset} padded": {"preset": preset, "pad_vocab_to_multiple_of": 64, "local_attention": 8}
       for preset in PRESETS},
    "bert-prenorm padded, untied": {"pad_vocab_to_multiple_of": 64, "tie_word_embeddings": False},
    "bert sinusoidal": {"preset": "bert", "positions": "sinusoidal"},
    "bert-prenorm sinusoidal": {"positions": "sinusoidal", "position_scale": 0.028},
    "bert pre-norm": {"preset": "bert", "norm": "pre"},
    "bert-prenorm post-norm": {"norm": "post"},
    "bert-prenorm no bias": {"bias": False},
    "bert no bias, untied": {"preset": "bert", "bias": False, "tie_word_embeddings": False},
    "bert-prenorm eps": {"layer_norm_eps": 0.1},
    "roberta sinusoidal": {"preset": "roberta", "positions": "sinusoidal"},
    "roberta pre-norm": {"preset": "roberta", "norm": "pre", "hidden_act": "relu"},
    "roberta no bias": {"preset": "roberta", "bias": False, "layer_norm_eps": 0.1},
    "distilbert no bias": {"preset": "distilbert", "bias": False},
    "distilbert pre-norm": {"preset": "distilbert", "norm": "pre"},
    "modernbert bias": {**LOCAL, "bias": True, "local_attention": 8},
    "modernbert global": {**LOCAL, "local_attention": None},
    "modernbert narrow, second": {**LOCAL, "local_attention": 3, "global_attn_every_n_layers": 2},
    "modernbert bases": {**LOCAL, "rope_theta": 500.0, "local_rope_theta": 20.0,
                         "local_attention": 16},
}  # fmt: skip


def load_with_transformers(
    model: MaskedLanguageModel, directory: Path
) -> "transformers.PreTrainedModel":
    """The model as transformers loads it from exported files."""
    tensors = {name: x.float().contiguous() for name, x in to_hf_state_dict(model, PAD).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    content = config_json(model.config, VOCAB, SPECIAL_IDS)
    (directory / "config.json").write_text(json.dumps(content))
    hf_model, info = transformers.AutoModelForMaskedLM.from_pretrained(
        directory, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return hf_model.double()


def padded(lengths: list[int]) -> torch.Tensor:
    inputs = torch.full((len(lengths), ROW), PAD)
    for row, sequence in zip(inputs, make_sequences(lengths), strict=True):
        row[: sequence.inputs.size] = torch.from_numpy(sequence.inputs)
    return inputs


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_equal_the_hugging_face_class(name, tmp_path):
    """At every token, for sequences from one token to the maximum length."""
    model = make_model(**MODELS[name]).float().double().eval()
    hf_model = load_with_transformers(model, tmp_path).eval()
    lengths = [ROW, 5, 17, 1]
    inputs = padded(lengths)
    mask = torch.arange(ROW) < torch.tensor(lengths)[:, None]
    hf_logits = hf_model(input_ids=inputs, attention_mask=mask.long()).logits[mask]
    packed = pack(MaskedSequences.concatenate(make_sequences(lengths)), row_length=0, pad_id=PAD)
    batch = tensors_of(packed, rows=((1, 128),))
    all_positions = torch.arange(sum(lengths))
    logits = model.logits(dataclasses.replace(batch, masked_M=all_positions))
    tolerance = 1e-5 if model.config.positions == "rope" else 1e-10  # rotary angles are fp32
    torch.testing.assert_close(logits, hf_logits, rtol=tolerance, atol=tolerance)
    for values in (logits, hf_logits):
        F.cross_entropy(values, all_positions % VOCAB).backward()
    expected = to_hf_state_dict(gradients_of(model), PAD)
    names = architecture_of(model.config).hf_names
    (tokens,), (decoder,) = names("encoder.embeddings.tokens.weight"), names("head.decoder.weight")
    expected.setdefault(decoder, expected[tokens])  # tied; XLM-RoBERTa names the decoder first
    for key, parameter in hf_model.named_parameters():
        if not is_missing_in_our_model(key, model.config):
            torch.testing.assert_close(
                parameter.grad, expected[key], rtol=10 * tolerance, atol=10 * tolerance
            )


def gradients_of(model: MaskedLanguageModel) -> MaskedLanguageModel:
    """A model whose parameters are the gradients."""
    gradients = copy.deepcopy(model)
    for target, source in zip(gradients.parameters(), model.parameters(), strict=True):
        target.data = torch.zeros_like(source) if source.grad is None else source.grad
    return gradients


def is_missing_in_our_model(name: str, config: ModelConfig) -> bool:
    """Whether the class trains a parameter that our model does not have."""
    return (
        "token_type" in name
        or ("position_embeddings" in name and config.positions == "sinusoidal")
        or (name.endswith(".bias") and not config.bias)
        or name == "cls.predictions.bias" and not config.tie_word_embeddings
        or name == "lm_head.bias" and not config.tie_word_embeddings
    )  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_has_its_class(preset):
    config = ModelConfig.model_validate(SMALL | {"preset": preset})
    assert architecture_of(config).name == PRESETS[preset]


UNSUPPORTED = {
    "feed_forward": [{"feed_forward": "glu"}, {"preset": "bert", "feed_forward": "glu"},
                     {"preset": "modernbert", "feed_forward": "mlp"}],
    "norm": [{"preset": "modernbert", "norm": "post"}],
    "preset": [{"positions": "rope", "feed_forward": "glu"},
               {"preset": "modernbert", "positions": "learned", "feed_forward": "mlp",
                "local_attention": None}],
    "hidden_act": [{"norm": "post", "hidden_act": "relu"},
                   {"preset": "bert", "norm": "pre", "hidden_act": "silu"}],
    "layer_norm_eps": [{"preset": "distilbert", "layer_norm_eps": 1e-5}],
    "local_attention": [{"local_attention": 8, "global_attn_every_n_layers": 2}],
}  # fmt: skip


@pytest.mark.parametrize("option", UNSUPPORTED)
def test_unsupported_option_is_named(option):
    for fields in UNSUPPORTED[option]:
        with pytest.raises(ConfigError, match=f"model.{option} is"):
            architecture_of(ModelConfig.model_validate(SMALL | fields))


# The other models lack parameters of their class.
INVERTIBLE = [name for name in MODELS if "sinusoidal" not in name and "no bias" not in name]


@pytest.mark.parametrize("name", INVERTIBLE)
def test_weights_round_trip_bit_exactly(name):
    model = make_model(**MODELS[name]).float()
    weights = from_hf_state_dict(model, PAD, to_hf_state_dict(model, PAD).__getitem__)
    names = {key for key, _ in model.named_parameters()}
    assert weights.keys() == names
    if model.config.norm != model.config.traits.defaults["norm"]:
        # Another class than the preset's may drop position rows that no token reads.
        names.remove("encoder.embeddings.positions.weight")
    for key in names:
        before, after = model.get_parameter(key), weights[key]
        assert torch.equal(before.view(torch.int32), after.view(torch.int32)), key
