"""Program: forward and backward of every preset, precision and checkpointing on the fake card.

Its result also has what the recorder sees in a few known lines, as a test of the recorder.
"""

from tests.fake_cuda.card import use_fake_card  # isort: skip - before torch

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bertds.config.case import Case
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from tests.fake_cuda.programs import write_result
from tests.fake_cuda.recorder import Recorder
from tests.fake_cuda.training import Batch, small_case

CARD = torch.device("cuda", 0)
VOCAB_SIZE = 500
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
COMBINATIONS = [
    *itertools.product(("bert", "bert-prenorm", "modernbert"), DTYPES, (False, True)),
]


def pass_of(preset: str, precision: str, checkpointing: bool) -> dict[str, Any]:
    """What one forward and backward pass has done, or the error that ended it."""
    case = small_case(1, precision, preset=preset, gradient_checkpointing=checkpointing)
    try:
        return _pass_of(case)
    except (RuntimeError, AssertionError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _pass_of(case: Case) -> dict[str, Any]:
    dtype = DTYPES[case.precision]
    batch = Batch(sequences=8, mean_length=20).pack(case, VOCAB_SIZE)
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:
        with CARD:
            model = MaskedLanguageModel(case.bertds.model, VOCAB_SIZE, 0)
        model = model.to(dtype).train()
        recorder.take()
        loss, is_correct = model(to_device(CARD, batch))
        loss.backward()
        record = recorder.take()
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None
        or parameter.grad.dtype != dtype
        or parameter.grad.device != CARD
        or parameter.grad.shape != parameter.shape
    ]
    return {
        "varlen_calls": record.calls["_varlen_attn"],
        "varlen_backwards": record.calls["_varlen_attn_backward"],
        "waits": list(record.waits),
        "wrong_gradients": wrong,
        "loss": [str(loss.dtype), str(loss.device), list(loss.shape)],
        "is_correct": [str(is_correct.dtype), str(is_correct.device)],
        "has_one_for_each_label": is_correct.shape == batch.labels.shape,
    }


def _assign(numbers: torch.Tensor) -> None:
    numbers[0] = 1.0


LINES: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda numbers: numbers.sum().item(),
    "bool": lambda numbers: bool(numbers.isfinite().all()),
    "nonzero": lambda numbers: numbers.nonzero(),
    "assign": _assign,
    "new": lambda numbers: torch.tensor(1.0, device=numbers.device),
    "to": lambda numbers: numbers.to("cpu"),
    "to, non-blocking": lambda numbers: numbers.to("cpu", non_blocking=True),
    "fill": lambda numbers: numbers[0].fill_(1.0),
    "add": lambda numbers: numbers + numbers,
    "view": lambda numbers: numbers.view(4, -1).t(),
    "synchronize": lambda _: torch.cuda.synchronize(),
    "two devices": lambda numbers: numbers + torch.ones(1024, device="cpu"),
    "two types": lambda numbers: numbers.view(32, 32) @ numbers.view(32, 32).bfloat16(),
}
"""Lines of code by name; `numbers` are 1,024 in fp32 on the card."""


def seen_in(line: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    """Waits, operators and peak of a line, or its error."""
    with FakeTensorMode(), Recorder() as recorder:
        numbers = torch.empty(1024, device=CARD)
        recorder.take()
        try:
            line(numbers)
        except (RuntimeError, AssertionError) as error:
            return {"error": str(error)}
        record = recorder.take()
    return {
        "waits": [wait for wait, _ in record.waits],
        "operators": record.operators.total(),
        "peak": record.peak,
        "after": recorder.live,
    }


if __name__ == "__main__":
    use_fake_card()
    passes = {str(each): pass_of(*each) for each in COMBINATIONS}
    write_result({"passes": passes, "lines": {name: seen_in(line) for name, line in LINES.items()}})
