"""A compiled model computes what the same model computes without compilation."""

import numpy as np
import pytest
import torch

import tests.helpers.varlen_kernels  # noqa: F401 - registers the kernels
from bertds.model.batch import DeviceBatch
from bertds.model.compiled import compile_parts
from bertds.model.loss import summed_cross_entropy, unchunked_cross_entropy
from bertds.model.mlm import MaskedLanguageModel
from tests.helpers.tensors import (
    as_rows,
    as_varlen,
    assert_equal,
    loss_and_gradients,
    make_model,
    make_sequences,
)

WITH_EQUAL_SIZES = [5, 4, 4, 3]
"""Lengths whose batch has as many tokens as hidden units, and as many masked tokens as starts."""
MODELS = {
    "bert": {"preset": "bert", "num_hidden_layers": 3},
    "modernbert": {"preset": "modernbert", "num_hidden_layers": 5, "local_attention": 8},
}
GRAPHS = {"bert": 2 + 1, "modernbert": 4 + 2}
"""Kinds of layers, the loss, and the rotary embedding if there is one."""


def batches(count: int) -> list[DeviceBatch]:
    """Varlen batches of many sizes; the first could be taken for a special case."""
    generator = np.random.default_rng(0)
    lengths = [generator.integers(2, 32, generator.integers(2, 12)).tolist() for _ in range(count)]
    made = [make_sequences(each, seed) for seed, each in enumerate([WITH_EQUAL_SIZES, *lengths])]
    return [as_varlen(sequences) for sequences in made]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Up to the rounding of 64 bits; the number of correct tokens may be 0."""
    assert found["correct"] == expected["correct"]
    for sums in (found, expected):
        assert sums.pop("correct") >= 0
    assert_equal(found, expected, 1e-11)


class CountedBackend:
    """A backend of `torch.compile` that counts the graphs that it is given."""

    def __init__(self, name: str) -> None:
        self.compile = torch._dynamo.lookup_backend(name)
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        self.graphs += 1
        return self.compile(graph, inputs)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "modernbert" else pytest.mark.slow) for kind in MODELS],
)
def test_few_graphs_hold_for_batches_of_every_size(kind):
    """They compute the same, and parameters keep their names."""
    model = make_model(**MODELS[kind])
    first, *others = batches(20)
    assert first.inputs_T.numel() == model.config.hidden_size
    assert first.masked_M.numel() == first.cumulative.numel()
    expected = [loss_and_gradients(model, [batch]) for batch in (first, *others)]
    names = list(model.state_dict())
    backend = CountedBackend("eager")
    compile_parts(model, backend)
    for batch, uncompiled in zip((first, *others), expected, strict=True):
        assert_same(loss_and_gradients(model, [batch]), uncompiled)
        assert backend.graphs == GRAPHS[kind]
    assert list(model.state_dict()) == names
    with torch.no_grad():
        for batch in (first, *others):
            model.eval()(batch)
    assert backend.graphs == 2 * GRAPHS[kind]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layout", [as_rows, as_varlen])
@pytest.mark.parametrize("kind", MODELS)
def test_the_backward_pass_that_is_traced_ahead_is_the_same(kind, layout, checkpointing):
    model = make_model(**MODELS[kind], gradient_checkpointing=checkpointing)
    inputs = [layout(make_sequences(lengths)) for lengths in (WITH_EQUAL_SIZES, [7, 30, 12, 9])]
    expected = [loss_and_gradients(model, [batch]) for batch in inputs]
    compile_parts(model, "aot_eager")
    for batch, uncompiled in zip(inputs, expected, strict=True):
        assert_same(loss_and_gradients(model, [batch]), uncompiled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_that_is_compiled_equals_the_one_in_chunks(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(23, 37, generator=generator) * 5).to(dtype)
    labels = torch.randint(0, 37, (23,), generator=generator)
    results = []
    for function in (summed_cross_entropy, unchunked_cross_entropy):
        leaf = logits.clone().requires_grad_()
        loss, correct = function(leaf, labels)
        (loss / 3).backward()
        results.append((loss.detach(), correct, leaf.grad))
    torch.testing.assert_close(*results, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert results[0][0].dtype == torch.float32


def relative_errors(model: MaskedLanguageModel, exact, inputs) -> list[float]:
    """Of the loss and of every gradient, by norm."""
    found = loss_and_gradients(model, inputs)
    return [
        float((found[name].double() - value).norm() / value.norm())
        for name, value in exact.items()
        if name != "correct"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inductor_rounds_no_more_than_eager(kind, dtype):
    """Inductor's own kernels, in the precisions that are trained."""
    model, inputs = make_model(**MODELS[kind]), batches(2)
    exact = loss_and_gradients(model, inputs)
    model = model.to(dtype)
    eager = relative_errors(model, exact, inputs)
    compile_parts(model)
    compiled = relative_errors(model, exact, inputs)
    assert max(compiled) < 1.5 * max(eager) + 1e-6


@pytest.mark.slow
def test_the_compiled_loss_keeps_no_copy_of_the_logits():
    """The backward pass gets the logits and a few numbers of each row."""
    compiled = torch.compile(unchunked_cross_entropy, fullgraph=True, dynamic=True)
    logits = torch.randn(48, 1000, dtype=torch.bfloat16, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        compiled(logits, torch.randint(0, 1000, (48,)))
    large = [tensor for tensor in saved if tensor.numel() >= logits.numel()]
    assert [tensor.data_ptr() for tensor in large] == [logits.data_ptr()]
