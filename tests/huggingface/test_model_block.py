"""A case's model is derived from the config.json of a Hugging Face directory."""

import json
import re

import pytest

from bertds.config.presets import PRESETS
from bertds.config.schema import ModelConfig
from bertds.errors import ConfigError
from bertds.huggingface.architectures import ARCHITECTURES, architecture_of
from bertds.huggingface.config import row_multiple
from bertds.huggingface.model_block import model_block
from tests.huggingface.test_pretrained import make_config, make_model, write

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    "fields",
    [
        *({"preset": preset} for preset in PRESETS),
        {
            "preset": "bert",
            "hidden_act": "relu",
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.3,
        },
        {"preset": "bert-prenorm", "tie_word_embeddings": False},
        {"preset": "bert-prenorm", "pad_vocab_to_multiple_of": 64},
        {"preset": "modernbert", "global_attn_every_n_layers": 1, "rope_theta": 7.0},
        {"preset": "modernbert", "global_attn_every_n_layers": 2, "bias": True},
    ],
    ids=str,
)
def test_the_block_gives_the_model_that_was_exported(tokenizer, tmp_path, fields):
    """Attention dropout is left out: a run sets it, and most continue without."""
    model = make_model(tokenizer, **fields)
    block = model_block(write(model, tokenizer, tmp_path))
    config = ModelConfig.model_validate(block)
    same = {"initializer_range", "attention_probs_dropout_prob"}  # no weight depends on them
    if model.config.preset != "modernbert":
        same.add("local_attention")  # the other classes have no local layers
        assert config.type_vocab_size == architecture_of(config).token_type_rows
        same.add("type_vocab_size")  # the exported table is 0
    assert config.model_dump(exclude=same) == model.config.model_dump(exclude=same)


@pytest.mark.parametrize(
    "architecture", ARCHITECTURES, ids=lambda architecture: architecture.preset
)
def test_what_a_preset_sets_is_left_out(tokenizer, tmp_path, architecture):
    directory = write(make_model(tokenizer), tokenizer, tmp_path)
    name = architecture.name.replace("ForMaskedLM", "Config")
    full = getattr(transformers, name)(vocab_size=tokenizer.vocab_size, pad_token_id=0).to_dict()
    if "layer_norm_eps" in full:  # RoBERTa's models have another than its class by default
        full["layer_norm_eps"] = PRESETS[architecture.preset].defaults["layer_norm_eps"]
    (directory / "config.json").write_text(json.dumps(full))
    block = model_block(directory)
    shapes = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    types = {"type_vocab_size"} if architecture.token_types else set()
    assert block.keys() - shapes == {"preset", "max_position_embeddings"} | types
    assert block["preset"] == architecture.preset


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "t5"}, "model_type 't5', expected one of bert, roberta-pre"),
        ({"hidden_act": "tanh"}, 'model.hidden_act is "tanh", expected'),
        ({"num_attention_heads": 3}, "num_attention_heads is 3, which does not divide"),
        ({"hidden_size": "16"}, 'model.hidden_size is "16", expected a whole number'),
        ({"vocab_size": 7}, "vocab_size 7, the case needs .*resize_token_embeddings"),
        (
            {"model_type": "roberta"},
            "pad_token_id 1, the case needs 0 .the tokenizer's padding token; this class counts",
        ),
        ({"model_type": ["bert"]}, "expected one of bert, roberta-pre"),
        ({"max_position_embeddings": "512"}, "a value that BertForMaskedLM does not accept"),
    ],
)
def test_what_no_case_can_have_is_named(tokenizer, tmp_path, changes, words):
    write(
        make_model(tokenizer, preset="bert"), tokenizer, tmp_path, **{"pad_token_id": 1, **changes}
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path))}: .*{words}"):
        model_block(tmp_path)


@pytest.mark.parametrize(
    ("rows", "multiple"),
    [(6000, 1), (5999, 1), (6016, 32), (6080, 95), (6007, 6007)],
)
def test_the_least_multiple_gives_the_rows_of_a_padded_vocabulary(rows, multiple):
    """With 6,080 a vocabulary of 6,100 tokens would have twice the rows, with 95 it has 6,175."""
    assert row_multiple(rows, 6000) == multiple
    if rows >= 6000:
        config = make_config(pad_vocab_to_multiple_of=multiple)
        assert config.padded_vocab_size(6000) == rows


def test_all_differences_are_told_at_once(tokenizer, tmp_path):
    from bertds.huggingface.pretrained import open_pretrained

    directory = write(make_model(tokenizer), tokenizer, tmp_path)
    with pytest.raises(ConfigError) as error:
        open_pretrained(directory, make_config(num_hidden_layers=5, hidden_act="relu"), tokenizer)
    for words in ("num_hidden_layers 3, the case needs 5", "hidden_act 'gelu', the case needs"):
        assert words in str(error.value)
