"""TODO."""

import dataclasses

import pytest
import torch

from bertds.config.schema import ModelConfig
from bertds.model.attention import segments_of
from bertds.model.batch import DeviceBatch
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.param_groups import kind_of, parameter_groups
from tests.helpers.tensors import (
    SMALL,
    VOCAB,
    as_rows,
    assert_equal,
    figures,
    make_model,
    make_sequences,
)
from tests.helpers.weights import count_parameters

PRESETS = ["bert", "bert-prenorm", "modernbert"]


def build(seed: int, **fields) -> MaskedLanguageModel:
    torch.manual_seed(seed)
    return MaskedLanguageModel(ModelConfig.model_validate(SMALL | fields), VOCAB, 0)


def hidden_of(model: MaskedLanguageModel, pack: DeviceBatch) -> torch.Tensor:
    window = model.config.local_attention
    segments = segments_of(
        pack.segments_T, pack.cumulative, pack.max_length, pack.rows, window, torch.float64
    )
    everywhere = torch.arange(pack.inputs_T.numel())
    return model.encoder(pack.inputs_T, pack.positions_T, segments, everywhere)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_head_on_masked_tokens_gives_their_rows_of_all_logits(preset):
    model = make_model(preset=preset)
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    everywhere = model.head(hidden_of(model, rows))
    assert everywhere.shape == (rows.inputs_T.numel(), VOCAB)
    torch.testing.assert_close(
        everywhere[rows.masked_M], model.logits(rows), rtol=1e-12, atol=1e-12
    )


def test_sums_are_those_of_single_tokens():
    model = make_model()
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    loss, correct = model(rows)
    probabilities = model.logits(rows).softmax(-1)
    expected = -probabilities.gather(1, rows.labels_M[:, None]).log().sum()
    torch.testing.assert_close(loss, expected)
    assert correct == (probabilities.argmax(-1) == rows.labels_M).sum()


def test_the_loss_is_summed_in_32_bits_at_least():
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    for given, summed in [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        assert make_model().to(given)(rows)[0].dtype == summed


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_depend_on_the_seed_alone(preset):
    one, again, other = (build(seed, preset=preset) for seed in (1, 1, 2))
    for (name, first), second in zip(one.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second), name
    differing = [
        name
        for (name, first), second in zip(one.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(first, second)
    ]
    matrices = [name for name, parameter in one.named_parameters() if parameter.dim() == 2]
    assert differing == matrices


def test_weights_begin_as_they_should():
    model = build(0, hidden_size=64, intermediate_size=200, initializer_range=0.05)
    for name, parameter in model.named_parameters():
        if kind_of(name) == "bias":
            assert (parameter == 0).all(), name
        elif kind_of(name) == "norm":
            assert (parameter == 1).all(), name
        else:
            assert abs(parameter.mean()) < 0.05 * 5 / parameter.numel() ** 0.5, name
            assert abs(parameter.std() / 0.05 - 1) < 4 / parameter.numel() ** 0.5, name


def test_decoder_is_tied_to_the_embedding_or_not():
    tied, untied = build(0), build(0, tie_word_embeddings=False)
    assert tied.head.decoder.weight is tied.encoder.embeddings.tokens.weight
    assert untied.head.decoder.weight is not untied.encoder.embeddings.tokens.weight
    assert count_parameters(untied) - count_parameters(tied) == VOCAB * 16


def test_every_parameter_has_a_gradient():
    rows = as_rows(make_sequences([7, 30, 12, 9, 32]))
    for preset in PRESETS:
        model = make_model(preset=preset)
        missing = {name for name, _ in model.named_parameters()} - figures(model, [rows]).keys()
        assert not missing


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_groups_hold_every_parameter_once(preset):
    model = build(0, preset=preset)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for no_decay, kinds in [
        ((), {"weight", "norm", "bias", "embedding"}),
        (("bias", "norm"), {"weight", "embedding"}),
        (("bias", "norm", "embedding"), {"weight"}),
    ]:
        groups = parameter_groups(model, no_decay)
        found = [names[id(parameter)] for group in groups for parameter in group["params"]]
        assert sorted(found) == sorted(names.values())
        decayed = {kind_of(names[id(parameter)]) for parameter in groups[0]["params"]}
        assert decayed == kinds - ({"bias"} - {kind_of(name) for name in found})
        if no_decay:
            assert groups[1]["weight_decay"] == 0.0
            spared = {kind_of(names[id(parameter)]) for parameter in groups[1]["params"]}
            assert spared == set(no_decay)
        assert len(groups) == 1 + bool(no_decay)


def test_kinds_of_parameters():
    assert kind_of("encoder.embeddings.tokens.weight") == "embedding"
    assert kind_of("encoder.embeddings.positions.weight") == "embedding"
    assert kind_of("encoder.embeddings.norm.weight") == "norm"
    assert kind_of("encoder.layers.0.attention_norm.weight") == "norm"
    assert kind_of("encoder.layers.0.attention_norm.bias") == "bias"
    assert kind_of("encoder.layers.0.attention.qkv.weight") == "weight"
    assert kind_of("encoder.norm.weight") == "norm"
    assert kind_of("head.decoder.bias") == "bias"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_no_bit(preset, dropout):
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    found = []
    for wanted in (False, True):
        model = make_model(
            preset=preset, hidden_dropout_prob=dropout, gradient_checkpointing=wanted
        )
        model.train()
        torch.manual_seed(5)
        found.append(figures(model, [rows]))
    found[0].pop("correct"), found[1].pop("correct")
    assert_equal(*found, 0.0)


def test_dropout_is_off_in_evaluation():
    model = make_model(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    rows = as_rows(make_sequences([20, 10]))
    model.eval()
    assert torch.equal(model(rows)[0], model(rows)[0])
    model.train()
    assert not torch.equal(model(rows)[0], model(rows)[0])


def test_masked_positions_may_come_in_any_order():
    model = make_model()
    rows = as_rows(make_sequences([20, 10, 31]))
    order = torch.randperm(rows.masked_M.numel())
    shuffled = dataclasses.replace(
        rows, masked_M=rows.masked_M[order], labels_M=rows.labels_M[order]
    )
    torch.testing.assert_close(model(rows)[0], model(shuffled)[0], rtol=1e-12, atol=0)
