"""The varlen path of the model with real numbers: it equals the attention over rows.

A GPU runs this path in 16 bits. Here kernels for the CPU stand in for those of the GPU, so that the
calls, the windows and the gradients can be compared in 64 bits.
"""

import pytest

from tests.helpers.tensors import (
    NO_SEQUENCES,
    as_rows,
    as_varlen,
    assert_equal,
    loss_and_gradients,
    make_model,
    make_sequences,
    predict_some,
)
from tests.helpers.varlen_kernels import calls

LENGTHS = [5, 32, 17, 1, 30, 2, 20]  # 107 tokens, and 5 of padding
WINDOWS = [2, 7, 16, 128]  # the last is wider than every sequence
MODELS = [{"preset": preset} for preset in ("bert", "bert-prenorm", "roberta", "distilbert")]
MODELS += [{"preset": "modernbert", "local_attention": window} for window in WINDOWS]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("fields", MODELS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_varlen_equals_rows(fields, checkpointing):
    model = make_model(**fields, num_hidden_layers=4, gradient_checkpointing=checkpointing)
    sequences = predict_some(model, make_sequences(LENGTHS))
    by_rows = loss_and_gradients(model, [as_rows(sequences)])
    calls.clear()
    by_varlen = loss_and_gradients(model, [as_varlen(sequences)])
    assert calls == {"forward": 8 if checkpointing else 4, "backward": 4}
    assert_equal(by_varlen, by_rows, 1e-12)


def test_a_batch_of_padding_gives_zero():
    sums = loss_and_gradients(make_model(), [as_varlen([NO_SEQUENCES])])
    assert all((value == 0).all() for value in sums.values())
