"""Packed rows, padded rows and sequences end to end are the same mathematics."""

import itertools

import pytest
import torch

from bertds.model.attention import segments_of
from tests.helpers.tensors import (
    NOTHING,
    PAD,
    ROW,
    as_one_row,
    as_padded,
    as_rows,
    assert_equal,
    figures,
    guess_some,
    make_model,
    make_sequences,
)

LENGTHS = [1, 2, 3, 31, 32, 17, 9, 8, 8, 20, 5, 5]
TOLERANCE = 1e-10
WINDOW = {"local_attention": 6, "global_attn_every_n_layers": 2}


@pytest.mark.parametrize(
    ("positions", "norm", "feed_forward", "window"),
    [
        *itertools.product(
            ["learned", "sinusoidal", "rope"], ["pre", "post"], ["mlp", "glu"], [{}, WINDOW]
        )
    ],
)
def test_packed_equals_padded_equals_end_to_end(positions, norm, feed_forward, window):
    model = make_model(positions=positions, norm=norm, feed_forward=feed_forward, **window)
    parts = guess_some(model, make_sequences(LENGTHS))
    padded = figures(model, as_padded(parts))
    assert_equal(padded, figures(model, [as_rows(parts)]), TOLERANCE)
    assert_equal(padded, figures(model, [as_one_row(parts)]), TOLERANCE)


@pytest.mark.parametrize("preset", ["bert", "bert-prenorm", "modernbert"])
@pytest.mark.parametrize("act", ["relu", "gelu", "silu"])
def test_presets_and_activations(preset, act):
    fields = {"local_attention": 6} if preset == "modernbert" else {}
    model = make_model(preset=preset, hidden_act=act, tie_word_embeddings=False, **fields)
    parts = guess_some(model, make_sequences(LENGTHS, seed=1))
    assert_equal(figures(model, as_padded(parts)), figures(model, [as_rows(parts)]), TOLERANCE)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rope"])
def test_filler_changes_nothing(positions):
    model = make_model(positions=positions, tie_word_embeddings=False, **WINDOW)
    rows = as_rows(guess_some(model, make_sequences([20, 7, 9])))
    is_filler = rows.inputs_T == PAD
    assert 0 < is_filler.sum() < ROW
    before = figures(model, [rows])
    assert before["encoder.embeddings.tokens.weight"][PAD].abs().max() == 0
    rows.inputs_T[is_filler] = torch.randint(5, 50, (int(is_filler.sum()),))
    assert_equal(before, figures(model, [rows]), 0.0)


@pytest.mark.parametrize("layout", [as_rows, as_one_row])
def test_a_pack_of_filler_only_gives_zero(layout):
    model = make_model()
    found = figures(model, [layout([NOTHING])])
    assert found["loss"] == found["correct"] == 0
    assert all((gradient == 0).all() for gradient in found.values())


def hidden_of(model, rows):
    """(T, D) after the encoder."""
    segments = segments_of(
        rows.segments_T,
        rows.cumulative,
        rows.max_length,
        rows.rows,
        model.config.local_attention,
        torch.float64,
    )
    everywhere = torch.arange(rows.inputs_T.numel())
    return model.encoder(rows.inputs_T, rows.positions_T, segments, everywhere)


@torch.no_grad()
def test_a_local_layer_sees_half_the_window_on_each_side():
    model = make_model(num_hidden_layers=2, positions="rope", **WINDOW)
    model.encoder.layers[0].attention.output.weight.zero_()  # the global layer mixes nothing
    rows, changed = (as_padded(make_sequences([ROW]))[0] for _ in range(2))
    changed.inputs_T[10] = 5 + (changed.inputs_T[10] + 1) % 40
    moved = (hidden_of(model, rows) - hidden_of(model, changed)).abs().amax(1) > 1e-12
    assert moved.nonzero().flatten().tolist() == list(range(7, 14))


@torch.no_grad()
def test_a_sequence_sees_no_other():
    model = make_model()
    rows, changed = (as_rows(make_sequences([10, 12, 10])) for _ in range(2))
    assert rows.inputs_T.numel() == ROW
    inside = rows.segments_T == 1
    changed.inputs_T[inside] = 5 + (changed.inputs_T[inside] + 1) % 40
    moved = (hidden_of(model, rows) - hidden_of(model, changed)).abs().amax(1) > 1e-12
    assert torch.equal(moved, inside)
