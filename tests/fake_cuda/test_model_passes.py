"""On the fake card the model of every preset runs forward and backward with the right types.

Operators check devices and types there as on a GPU, and the varlen call checks its arguments.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.fake_cuda.recorder import check_varlen_call

LAYERS = 2


@pytest.fixture(scope="module")
def result(on_fake_card: Callable[[str], Any]) -> Any:
    return on_fake_card("model_passes")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("preset", ["bert", "bert-prenorm", "modernbert"])
def test_a_pass_has_the_right_devices_types_and_kernels(
    result: Any, preset: str, precision: str, checkpointing: bool
) -> None:
    seen = result["passes"][str((preset, precision, checkpointing))]
    calls = 0 if precision == "fp32" else LAYERS
    assert seen == {
        "varlen_calls": calls * (2 if checkpointing else 1),
        "varlen_backwards": calls,
        "waits": [],
        "wrong_gradients": [],
        "loss": ["torch.float32", "cuda:0", []],
        "is_correct": ["torch.bool", "cuda:0"],
        "has_one_for_each_label": True,
    }


@pytest.mark.parametrize(
    ("line", "waits"),
    {
        "item": ["item"],
        "bool": ["item"],
        "assign": ["copy cpu to cuda"],
        "new": ["copy cpu to cuda"],
        "to": ["copy cuda to cpu"],
        "to, non-blocking": [],
        "fill": [],
        "add": [],
        "view": [],
        "synchronize": ["torch.cuda.synchronize"],
    }.items(),
)
def test_the_recorder_sees_every_wait(result: Any, line: str, waits: list[str]) -> None:
    assert result["lines"][line]["waits"] == waits


def test_the_recorder_counts_operators_and_live_memory(result: Any) -> None:
    """1,024 numbers in fp32 are 4 KiB; a view is no operator and has no memory of its own."""
    lines = result["lines"]
    assert lines["view"] == {"waits": [], "operators": 0, "peak": 4096, "after": 4096}
    assert lines["add"] == {"waits": [], "operators": 1, "peak": 8192, "after": 4096}


@pytest.mark.parametrize("line", ["two devices", "two types", "nonzero"])
def test_an_error_of_a_card_is_an_error_on_the_fake_one(result: Any, line: str) -> None:
    assert result["lines"][line].keys() == {"error"}


GOOD = {
    **dict.fromkeys(("query", "key", "value"), torch.zeros(4, 2, 8, dtype=torch.bfloat16)),
    **dict.fromkeys(("begin", "end"), torch.tensor([0, 4], dtype=torch.int32)),
    "longest": 4,
    "other": 4,
}
BAD: list[dict[str, Any]] = [
    dict.fromkeys(("query", "key", "value"), torch.zeros(4, 2, 8)),
    dict.fromkeys(("query", "key", "value"), torch.zeros(4, 2, 12, dtype=torch.bfloat16)),
    {"value": torch.zeros(4, 2, 8, dtype=torch.float16)},
    {"key": torch.zeros(4, 8, 2, dtype=torch.bfloat16).transpose(1, 2)},
    {"begin": torch.tensor([0, 4])},
    {"end": torch.tensor([0, 9, 4], dtype=torch.int32)[::2]},
    {"longest": torch.tensor(4)},
]


@pytest.mark.parametrize("changes", BAD)
def test_a_wrong_varlen_call_is_rejected(changes: dict[str, Any]) -> None:
    check_varlen_call(**GOOD)
    with pytest.raises(AssertionError):
        check_varlen_call(**{**GOOD, **changes})
