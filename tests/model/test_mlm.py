"""The masked language model: initial weights, head, loss sums, checkpointing, dropout."""

import dataclasses

import pytest
import torch

from bertds.config.presets import PRESETS
from bertds.config.schema import ModelConfig
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.param_groups import kind_of
from tests.helpers.tensors import (
    SMALL,
    VOCAB,
    as_rows,
    assert_equal,
    hidden_of,
    loss_and_gradients,
    make_model,
    make_sequences,
)
from tests.helpers.weights import count_parameters


def build(seed: int, **fields) -> MaskedLanguageModel:
    torch.manual_seed(seed)
    return MaskedLanguageModel(ModelConfig.model_validate(SMALL | fields), VOCAB, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_logits_at_masked_positions_equal_those_of_all_tokens(preset):
    model = make_model(preset=preset)
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    all_logits = model.head(hidden_of(model, rows))
    assert all_logits.shape == (rows.inputs_T.numel(), VOCAB)
    torch.testing.assert_close(
        all_logits[rows.masked_M], model.logits(rows), rtol=1e-12, atol=1e-12
    )


def test_the_loss_is_the_sum_over_masked_tokens():
    model = make_model()
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    loss, is_correct = model(rows)
    probabilities = model.logits(rows).softmax(-1)
    expected = -probabilities.gather(1, rows.labels_M[:, None]).log().sum()
    torch.testing.assert_close(loss, expected)
    assert torch.equal(is_correct, probabilities.argmax(-1) == rows.labels_M)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_padding_of_the_vocabulary_changes_no_loss_and_gets_no_gradient(tied, dtype):
    fields = {"tie_word_embeddings": tied, "preset": "bert"}
    model, padded = build(0, **fields), build(0, **fields, pad_vocab_to_multiple_of=32)
    for name, weight in padded.named_parameters():
        source = model.get_parameter(name)
        weight.data[: source.shape[0]] = source.data
    model, padded = model.to(dtype), padded.to(dtype)
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    losses = [each(rows)[0] for each in (model, padded)]
    assert_close = torch.testing.assert_close
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert_close(losses[1], losses[0], rtol=tolerance, atol=tolerance)
    for loss in losses:
        loss.backward()
    for weight, source in zip(padded.parameters(), model.parameters(), strict=True):
        used = source.shape[0]
        assert_close(weight.grad[:used], source.grad, rtol=tolerance, atol=10 * tolerance)
        assert used == weight.shape[0] or (weight.shape[0] == 64 and used == VOCAB)
        assert (weight.grad[used:] == 0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_initial_weights_depend_only_on_the_seed(preset):
    first, again, other = (build(seed, preset=preset) for seed in (1, 1, 2))
    for (name, weight), same in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, same), name
    differing = [
        name
        for (name, weight), changed in zip(
            first.named_parameters(), other.parameters(), strict=True
        )
        if not torch.equal(weight, changed)
    ]
    matrices = [name for name, parameter in first.named_parameters() if parameter.dim() == 2]
    assert differing == matrices


def test_initial_weights_are_normal_biases_zero_and_norms_one():
    model = build(0, hidden_size=64, intermediate_size=200, initializer_range=0.05)
    for name, parameter in model.named_parameters():
        if kind_of(name) == "bias":
            assert (parameter == 0).all(), name
        elif kind_of(name) == "norm":
            assert (parameter == 1).all(), name
        else:
            assert abs(parameter.mean()) < 0.05 * 5 / parameter.numel() ** 0.5, name
            assert abs(parameter.std() / 0.05 - 1) < 4 / parameter.numel() ** 0.5, name


def test_the_decoder_is_tied_to_the_embedding_or_not():
    tied, untied = build(0), build(0, tie_word_embeddings=False)
    assert tied.head.decoder.weight is tied.encoder.embeddings.tokens.weight
    assert untied.head.decoder.weight is not untied.encoder.embeddings.tokens.weight
    assert count_parameters(untied) - count_parameters(tied) == VOCAB * 16


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_hidden_matrices_are_all_linear_layers_of_the_encoder(preset, tied):
    """Whatever they are called; the parts of a stack are used by different functions."""
    model = make_model(preset=preset, tie_word_embeddings=tied)
    expected = {
        f"encoder.layers.{name}.weight"
        for name, module in model.encoder.layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    stacks = model.hidden_matrices()
    assert stacks.keys() == expected
    width, inner = model.config.hidden_size, model.config.intermediate_size
    for name, stacked in stacks.items():
        rows, columns = model.get_parameter(name).shape
        assert (rows // stacked, columns) in {(width, width), (inner, width), (width, inner)}
        assert rows % stacked == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_has_a_gradient(preset):
    model = make_model(preset=preset)
    gradients = loss_and_gradients(model, [as_rows(make_sequences([7, 30, 12, 9, 32]))])
    assert {name for name, _ in model.named_parameters()} <= gradients.keys()


@pytest.mark.parametrize("preset", ["bert", "modernbert"])
def test_gradient_checkpointing_is_bit_exact(preset):
    """Dropout included: the recomputation draws the same numbers."""
    rows = as_rows(make_sequences([7, 30, 12, 9]))
    results = []
    for is_on in (False, True):
        model = make_model(preset=preset, hidden_dropout_prob=0.3, gradient_checkpointing=is_on)
        model.train()
        torch.manual_seed(5)
        results.append(loss_and_gradients(model, [rows]))
        results[-1].pop("correct")  # may be 0
    assert_equal(*results, 0.0)


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
