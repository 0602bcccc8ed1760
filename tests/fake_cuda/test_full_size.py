"""Steps of the base models at full size on the fake card: operators and memory."""

from collections.abc import Callable
from typing import Any

import pytest

from bertds.config.case import read_case
from bertds.planner.memory import MicroBatch, memory
from tests.fake_cuda import tables
from tests.helpers.launching import ROOT

MICRO_BATCHES = [
    ("bert_base", 64),
    ("bert_base", 256),
    ("modernbert_base", 32),
    ("modernbert_base", 128),
]


@pytest.fixture(scope="module")
def steps(on_fake_card: Callable[[str], Any]) -> Any:
    """Steps by case file and micro-batch size."""
    found = on_fake_card("full_size")
    return {(name, step["sequences"]): step for name in found for step in found[name]}


@pytest.mark.parametrize(("name", "sequences"), MICRO_BATCHES)
def test_a_step_has_the_operators_of_the_table(steps: Any, name: str, sequences: int) -> None:
    """They are the same in torch 2.11 and 2.13; one more is a kernel more in every step."""
    found = steps[name, sequences]["operators"]
    expected = tables.committed_operators()[name, sequences]
    assert found == expected, "if this is right, run python -m tests.fake_cuda.tables"
    assert found["update"] < 100


@pytest.mark.parametrize(("name", "sequences"), MICRO_BATCHES)
def test_a_step_of_one_rank_waits_once(steps: Any, name: str, sequences: int) -> None:
    waits = steps[name, sequences]["waits"]
    assert sum(times for times, _, _ in waits) <= 1, waits


@pytest.mark.parametrize(("name", "sequences"), MICRO_BATCHES)
def test_the_estimate_of_memory_is_close_to_the_peak(steps: Any, name: str, sequences: int) -> None:
    """Within 10 % of the bytes that are alive at once."""
    step = steps[name, sequences]
    case = read_case(ROOT / "ds_configs" / f"{name}.json", "main")
    micro_batch = MicroBatch(
        num_tokens=step["num_tokens"], num_masked=step["num_masked"], row_length=0
    )
    estimate = memory(case, 1, 1, micro_batch, vocab_size=step["vocab_size"]).peak
    print(f"{name} {sequences}: {step['peak']:,} alive, {estimate:,} estimated")
    assert estimate == pytest.approx(step["peak"], rel=0.1)
