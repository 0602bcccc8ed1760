"""Compilation of the layers, the rotary embedding and the loss, for `run.compile`.

The layers are compiled one by one and share their graphs: a graph for each kind of layer, which are
two in BERT and four in ModernBERT, and the same again for evaluation. A graph holds for every number
of tokens, sequences and masked tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bertds.model.loss import unchunked_cross_entropy
from bertds.model.mlm import MaskedLanguageModel

_MAX_GRAPHS = 1024
"""Beyond it torch stops with an error. Attention over rows has graphs for each combination of row
lengths."""

Backend = str | Callable[..., Any]


def compile_parts(model: MaskedLanguageModel, backend: Backend = "inductor") -> None:
    """Compile parts of a model in place, at their first call; the parameters keep their names.

    Args:
        model: The model, before DeepSpeed wraps it.
        backend: Of `torch.compile`.
    """
    torch.compiler.reset()  # graphs of an earlier model in this process
    torch._dynamo.config.recompile_limit = _MAX_GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = _MAX_GRAPHS
    encoder = model.encoder
    encoder.rotaries = _compiled(encoder.rotaries, backend)  # type: ignore[method-assign]
    for layer in encoder.layers:
        layer.forward = _compiled(layer.forward, backend)
    model.cross_entropy = _compiled(unchunked_cross_entropy, backend)


def _compiled(function: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    """Compile a function for every size of the first dimension of its arguments."""
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)

    def call(*arguments: Any) -> Any:
        _mark_dynamic(arguments)
        return compiled(*arguments)

    return call


def _mark_dynamic(value: Any) -> None:
    """Mark the first dimension of all tensors in a value.

    Otherwise the graph of a first batch in which two sizes are equal holds for such batches only.
    """
    if isinstance(value, Tensor):
        torch._dynamo.maybe_mark_dynamic(value, 0)
    elif isinstance(value, tuple):
        for part in value:
            _mark_dynamic(part)
    elif dataclasses.is_dataclass(value):
        _mark_dynamic(tuple(getattr(value, field.name) for field in dataclasses.fields(value)))
