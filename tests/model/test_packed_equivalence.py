"""Packed rows, padded rows and concatenated sequences give the same loss and gradients."""

import pytest
import torch

from tests.helpers.tensors import (
    NO_SEQUENCES,
    PAD,
    ROW,
    as_one_row,
    as_padded,
    as_rows,
    assert_equal,
    hidden_of,
    loss_and_gradients,
    make_model,
    make_sequences,
    predict_some,
)

LENGTHS = [1, 2, 31, 32, 17, 9, 8, 5]
TOLERANCE = 1e-10
WINDOW = {"local_attention": 6, "global_attn_every_n_layers": 2}
TWO_LAYERS = {"num_hidden_layers": 2}  # one global, one local where there is a window


@pytest.mark.parametrize(
    ("positions", "norm", "feed_forward", "window"),
    [
        # Every pair of options occurs.
        ("learned", "pre", "mlp", {}),
        ("learned", "post", "glu", WINDOW),
        ("sinusoidal", "pre", "glu", WINDOW),
        ("sinusoidal", "post", "mlp", {}),
        ("rope", "post", "mlp", WINDOW),
        ("rope", "pre", "glu", {}),
    ],
)
def test_all_layouts_are_equal(positions, norm, feed_forward, window):
    options = {"positions": positions, "norm": norm, "feed_forward": feed_forward}
    model = make_model(**options, **window, **TWO_LAYERS)
    sequences = predict_some(model, make_sequences(LENGTHS))
    padded = loss_and_gradients(model, as_padded(sequences))
    for layout in (as_rows, as_one_row):
        assert_equal(loss_and_gradients(model, [layout(sequences)]), padded, TOLERANCE)


@pytest.mark.parametrize(
    ("preset", "act"),
    [
        ("bert", "relu"),
        ("bert-prenorm", "silu"),
        ("modernbert", "gelu"),
        ("roberta", "relu"),
        ("distilbert", "silu"),
    ],
)
def test_all_layouts_are_equal_for_each_preset(preset, act):
    window = WINDOW if preset == "modernbert" else {}
    options = {"preset": preset, "hidden_act": act, "tie_word_embeddings": False}
    model = make_model(**options, **window, **TWO_LAYERS)
    sequences = predict_some(model, make_sequences(LENGTHS, seed=1))
    padded = loss_and_gradients(model, as_padded(sequences))
    assert_equal(loss_and_gradients(model, [as_rows(sequences)]), padded, TOLERANCE)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rope"])
def test_padding_tokens_have_no_effect(positions):
    model = make_model(positions=positions, tie_word_embeddings=False, **WINDOW, **TWO_LAYERS)
    rows = as_rows(predict_some(model, make_sequences([20, 7, 9])))
    is_padding = rows.inputs_T == PAD
    assert 0 < is_padding.sum() < ROW
    before = loss_and_gradients(model, [rows])
    assert before["encoder.embeddings.tokens.weight"][PAD].abs().max() == 0
    rows.inputs_T[is_padding] = torch.randint(5, 50, (int(is_padding.sum()),))
    assert_equal(loss_and_gradients(model, [rows]), before, 0.0)


@pytest.mark.parametrize("layout", [as_rows, as_one_row])
def test_a_batch_of_padding_gives_zero(layout):
    sums = loss_and_gradients(make_model(**TWO_LAYERS), [layout([NO_SEQUENCES])])
    assert all((value == 0).all() for value in sums.values())
    assert {"loss", "correct", "encoder.embeddings.tokens.weight"} <= sums.keys()


@torch.no_grad()
def test_a_local_layer_sees_half_the_window_on_each_side():
    model = make_model(positions="rope", **WINDOW, **TWO_LAYERS)
    model.encoder.layers[0].attention.output.weight.zero_()  # the global layer mixes no tokens
    rows, changed = (as_padded(make_sequences([ROW]))[0] for _ in range(2))
    changed.inputs_T[10] = 5 + (changed.inputs_T[10] + 1) % 40
    differs = (hidden_of(model, rows) - hidden_of(model, changed)).abs().amax(1) > 1e-12
    assert differs.nonzero().flatten().tolist() == list(range(7, 14))


@torch.no_grad()
def test_a_sequence_sees_no_other_sequence():
    model = make_model(**TWO_LAYERS)
    rows, changed = (as_rows(make_sequences([10, 12, 10])) for _ in range(2))
    assert rows.inputs_T.numel() == ROW
    inside = rows.segments_T == 1
    changed.inputs_T[inside] = 5 + (changed.inputs_T[inside] + 1) % 40
    differs = (hidden_of(model, rows) - hidden_of(model, changed)).abs().amax(1) > 1e-12
    assert torch.equal(differs, inside)
