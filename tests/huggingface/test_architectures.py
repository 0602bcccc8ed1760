"""A model is the Hugging Face class that its files name: equal logits, equal gradients."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from bertds.config.schema import ModelConfig
from bertds.data.packing import pack
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
    join,
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
}
LOCAL = {"preset": "modernbert", "num_hidden_layers": 4}


# The options of each preset, and what lies between the presets but is a class all the same.
MODELS = {
    **{f"{preset} {act}": {"preset": preset, "hidden_act": act, "local_attention": 8}
       for preset in PRESETS for act in ("relu", "gelu", "silu")},
    **{f"{preset} untied": {"preset": preset, "tie_word_embeddings": False} for preset in PRESETS},
    "bert sinusoidal": {"preset": "bert", "positions": "sinusoidal"},
    "bert-prenorm sinusoidal": {"positions": "sinusoidal"},
    "bert pre-norm": {"preset": "bert", "norm": "pre"},
    "bert-prenorm post-norm": {"norm": "post"},
    "bert-prenorm no bias": {"bias": False},
    "bert no bias, untied": {"preset": "bert", "bias": False, "tie_word_embeddings": False},
    "bert-prenorm eps": {"layer_norm_eps": 0.1},
    "modernbert bias": {**LOCAL, "bias": True, "local_attention": 8},
    "modernbert global": {**LOCAL, "local_attention": None},
    "modernbert narrow, second": {**LOCAL, "local_attention": 3, "global_attn_every_n_layers": 2},
    "modernbert bases": {**LOCAL, "rope_theta": 500.0, "local_rope_theta": 20.0,
                         "local_attention": 16},
}  # fmt: skip


def written(model: MaskedLanguageModel, directory: Path) -> "transformers.PreTrainedModel":
    """The model as the library loads it from a directory with our files."""
    tensors = {name: x.float().contiguous() for name, x in to_hf_state_dict(model, PAD).items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    content = config_json(model.config, VOCAB, SPECIAL_IDS)
    (directory / "config.json").write_text(json.dumps(content))
    there, said = transformers.AutoModelForMaskedLM.from_pretrained(
        directory, output_loading_info=True
    )
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return there.double()


def padded(lengths: list[int]) -> torch.Tensor:
    inputs = torch.full((len(lengths), ROW), PAD)
    for row, part in zip(inputs, make_sequences(lengths), strict=True):
        row[: part.inputs.size] = torch.from_numpy(part.inputs)
    return inputs


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_equal_those_of_the_class(name, tmp_path):
    """At every token of sequences of one token up to the model's longest."""
    model = make_model(**MODELS[name]).float().double().eval()
    there = written(model, tmp_path).eval()
    if name.split(" ")[0] in PRESETS and " " not in name:
        assert type(there).__name__ == PRESETS[name]
    lengths = [ROW, 5, 17, 1]
    inputs = padded(lengths)
    mask = torch.arange(ROW) < torch.tensor(lengths)[:, None]
    theirs = there(input_ids=inputs, attention_mask=mask.long()).logits[mask]
    rows = tensors_of(
        pack(join(make_sequences(lengths)), row_length=0, pad_id=PAD), rows=((1, 128),)
    )
    everywhere = torch.arange(sum(lengths))
    ours = model.logits(dataclasses.replace(rows, masked_M=everywhere))
    tolerance = 1e-5 if model.config.positions == "rope" else 1e-10  # its angles have 32 bits
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for logits in (ours, theirs):
        F.cross_entropy(logits, everywhere % VOCAB).backward()
    expected = to_hf_state_dict(gradients_of(model), PAD)
    for key, parameter in there.named_parameters():
        if not is_ours_alone(key, model.config):
            torch.testing.assert_close(
                parameter.grad, expected[key], rtol=10 * tolerance, atol=10 * tolerance
            )


def gradients_of(model: MaskedLanguageModel) -> MaskedLanguageModel:
    found = copy.deepcopy(model)
    for one, other in zip(found.parameters(), model.parameters(), strict=True):
        one.data = torch.zeros_like(other) if other.grad is None else other.grad
    return found


def is_ours_alone(name: str, config: ModelConfig) -> bool:
    """What the class trains and our model does not."""
    return (
        "token_type" in name
        or ("position_embeddings" in name and config.positions == "sinusoidal")
        or (name.endswith(".bias") and not config.bias)
        or name == "cls.predictions.bias" and not config.tie_word_embeddings
        or name == "lm_head.bias" and not config.tie_word_embeddings
    )  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_class(preset):
    config = ModelConfig.model_validate(SMALL | {"preset": preset})
    assert architecture_of(config).name == PRESETS[preset]


REFUSED = {
    "feed_forward": [{"feed_forward": "glu"}, {"preset": "bert", "feed_forward": "glu"},
                     {"preset": "modernbert", "feed_forward": "mlp"}],
    "norm": [{"preset": "modernbert", "norm": "post"}],
    "preset": [{"positions": "rope", "feed_forward": "glu"},
               {"preset": "modernbert", "positions": "learned", "feed_forward": "mlp",
                "local_attention": None}],
    "hidden_act": [{"norm": "post", "hidden_act": "relu"},
                   {"preset": "bert", "norm": "pre", "hidden_act": "silu"}],
    "local_attention": [{"local_attention": 8, "global_attn_every_n_layers": 2}],
}  # fmt: skip


@pytest.mark.parametrize("option", REFUSED)
def test_what_no_class_has_is_named(option):
    for fields in REFUSED[option]:
        with pytest.raises(ConfigError, match=f"model.{option} is"):
            architecture_of(ModelConfig.model_validate(SMALL | fields))


# Of the others the class has parameters that the model has not.
WHOLE = [name for name in MODELS if "sinusoidal" not in name and "no bias" not in name]


@pytest.mark.parametrize("name", WHOLE)
def test_weights_come_back_to_the_byte(name):
    model = make_model(**MODELS[name]).float()
    back_here = from_hf_state_dict(model, PAD, to_hf_state_dict(model, PAD).__getitem__)
    read = {key for key, _ in model.named_parameters()}
    assert back_here.keys() == read
    if model.config.norm != {"bert": "post"}.get(model.config.preset, "pre"):
        read.remove("encoder.embeddings.positions.weight")  # rows that no token reads are lost
    for key in read:
        ours, back = model.get_parameter(key), back_here[key]
        assert torch.equal(ours.view(torch.int32), back.view(torch.int32)), key
