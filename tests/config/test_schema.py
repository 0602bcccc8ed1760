"""The `bertds` block: strict values, presets, defaults that the documentation names."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bertds.config.batch_plan import BatchPlan
from bertds.config.optimizer_schema import OPTIMIZERS, SCHEDULERS
from bertds.config.presets import PRESETS
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import (
    BertdsConfig,
    DataConfig,
    MaskingConfig,
    MlflowConfig,
    ModelConfig,
    RunConfig,
    TrainSet,
    ValidSet,
    interval_steps,
)

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
DATA = {"train": [{"name": "a/train"}]}


def model(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(SIZES | fields)


BLOCKS = [
    *(BertdsConfig, ModelConfig, DataConfig, TrainSet, ValidSet, MaskingConfig, RunConfig),
    *(MlflowConfig, *OPTIMIZERS.values(), *SCHEDULERS.values()),
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_key_has_a_docstring(block):
    """The reference page is generated from them."""
    for name, field in block.model_fields.items():
        assert field.description, f"{block.__name__}.{name}"


@pytest.mark.parametrize(
    ("block", "values"),
    [
        (ModelConfig, SIZES),
        (DataConfig, DATA),
        (MaskingConfig, {}),
        (RunConfig, {"max_steps": 1}),
        (BertdsConfig, {"model": SIZES, "data": DATA, "run": {"max_steps": 1}}),
    ],
)
def test_blocks_are_frozen_and_reject_unknown_keys(block, values):
    made = block.model_validate(values)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, next(iter(block.model_fields)), 1)
    with pytest.raises(ValidationError, match="Extra inputs"):
        block.model_validate({**values, "other": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("hidden_size", True),
        ("hidden_size", 0),
        ("hidden_size", -64),
        ("hidden_size", None),
        ("hidden_dropout_prob", "0.1"),
        ("hidden_dropout_prob", 1.0),
        ("hidden_dropout_prob", -0.1),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", math.nan),
        ("rope_theta", math.inf),
        ("bias", 1),
        ("norm", "Pre"),
        ("hidden_act", "gelu_new"),
    ],
)
def test_no_value_is_converted(field, value):
    with pytest.raises(ValidationError):
        model(**{field: value})


def test_the_default_preset_is_bert_prenorm():
    made = model()
    assert made.preset == "bert-prenorm"
    assert (made.norm, made.positions, made.feed_forward, made.bias) == (
        "pre",
        "learned",
        "mlp",
        True,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_the_unset_fields(preset):
    made = model(preset=preset)
    for field, value in PRESETS[preset].defaults.items():
        assert getattr(made, field) == value


@pytest.mark.parametrize("preset", PRESETS)
def test_a_given_field_overrides_the_preset(preset):
    made = model(preset=preset, hidden_act="relu", norm="post", max_position_embeddings=99)
    assert (made.hidden_act, made.norm, made.max_position_embeddings) == ("relu", "post", 99)


def test_modernbert_alternates_local_and_global_attention():
    made = model(preset="modernbert")
    assert (made.local_attention, made.global_attn_every_n_layers) == (128, 3)
    assert (made.rope_theta, made.local_rope_theta) == (160_000, 10_000)


@given(st.integers(1, 64), st.integers(1, 64))
def test_heads_divide_the_width(heads, size):
    if size % heads:
        with pytest.raises(ValidationError, match=f"num_attention_heads is {heads}"):
            model(hidden_size=size, num_attention_heads=heads)
    else:
        made = model(hidden_size=size, num_attention_heads=heads)
        assert made.head_size * heads == size


def test_rotary_positions_need_an_even_head_size():
    with pytest.raises(ValidationError, match="num_attention_heads is 15, expected an even number"):
        model(hidden_size=60, positions="rope")


def test_json_lists_become_tuples():
    made = DataConfig.model_validate({"train": [{"name": "a"}, {"name": "b", "weight": 2}]})
    assert [(one.name, one.fraction, one.weight) for one in made.train] == [
        ("a", 1.0, 1),
        ("b", 1.0, 2),
    ]


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1])
def test_a_fraction_is_between_0_and_1(fraction):
    with pytest.raises(ValidationError):
        DataConfig.model_validate({"train": [{"name": "a", "fraction": fraction}]})


def test_at_least_one_training_dataset():
    with pytest.raises(ValidationError):
        DataConfig.model_validate({"train": []})


@pytest.mark.parametrize("name", ["", "a/b", "a b", "../a", "a\n"])
def test_a_validation_name_must_be_valid_in_a_metric(name):
    with pytest.raises(ValidationError, match="pattern"):
        DataConfig.model_validate({**DATA, "valid": {name: {"name": "a/valid"}}})


def test_the_default_masks_are_those_of_bert():
    made = MaskingConfig()
    assert (made.mode, made.ratio, made.mask_share, made.random_share, made.unit) == (
        "dynamic",
        0.15,
        0.8,
        0.1,
        "token",
    )


def test_the_fractions_of_masked_tokens_add_up_to_at_most_1():
    assert MaskingConfig(mask_share=1.0, random_share=0.0).mask_share == 1
    with pytest.raises(ValidationError, match="is above 1: lower one of them"):
        MaskingConfig(mask_share=0.9, random_share=0.2)


def test_copies_need_static_masks():
    assert MaskingConfig(mode="static", copies=3).copies == 3
    with pytest.raises(ValidationError, match="which needs static masking"):
        MaskingConfig(copies=3)


def test_a_run_needs_a_length():
    with pytest.raises(ValidationError, match="neither num_epochs nor max_steps is given"):
        RunConfig()
    assert RunConfig(num_epochs=0.5).max_steps is None
    assert RunConfig(max_steps=1).num_epochs is None


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_steps": 30}, 30),
        ({"num_epochs": 3}, 21),
        ({"num_epochs": 2.5}, 18),  # 17.5, rounded to even
        ({"num_epochs": 0.4}, 3),  # 2.8
        ({"num_epochs": 0.001}, 1),
        ({"num_epochs": 3, "max_steps": 30}, 21),
        ({"num_epochs": 30, "max_steps": 30}, 30),
        ({"max_tokens": 204, "num_epochs": 3}, 20),
    ],
)
def test_epochs_and_steps_whichever_is_less(limits, steps):
    lengths = ScheduleLengths.of(RunConfig(**limits), BatchPlan(7, 1), mean_length=10)
    assert lengths.num_steps == steps


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        (1, 1),
        (700, 700),
        ("1 epoch", 1126),
        ("2 epochs", 2252),
        ("0.5 epochs", 563),
        ("0.0001 epochs", 1),
        ("10 epoch", 11260),
    ],
)
def test_an_interval_is_steps_or_epochs(interval, steps):
    made = RunConfig(max_steps=1, log_every=interval, eval_every=interval, save_every=interval)
    assert made.log_every == interval
    assert interval_steps(made.save_every, 1126) == steps


@pytest.mark.parametrize(
    "interval",
    [0, -1, 1.5, True, None, "", "1", "epoch", "1epoch", "-1 epochs", "0 epochs", "0.0 epochs"]
    + ["1 epoch ", "1 epoch\n", "1e3 epochs", "1 step", "9999999 epochs", ["1 epoch"]],
)
def test_invalid_intervals(interval):
    with pytest.raises(ValidationError, match="is not an interval: expected a number of steps"):
        RunConfig(max_steps=1, eval_every=interval)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_an_interval_is_at_least_one_step(epochs, steps_per_epoch):
    assert interval_steps(f"{epochs} epochs", steps_per_epoch) == epochs * steps_per_epoch
    assert interval_steps(f"0.{epochs:06d} epochs", 1) >= 1


def test_defaults_that_the_documentation_names():
    run = RunConfig(max_steps=1)
    assert (run.resume, run.seed, run.no_decay) == ("auto", 0, None)
    assert not run.deterministic
    assert not run.tf32
