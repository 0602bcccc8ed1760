"""Where the host waits for the device in an optimizer step, at every ZeRO stage and precision."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_cuda import tables

STAGES_AND_PRECISIONS = [
    (stage, precision)
    for stage in range(4)
    for precision in ("bf16", "fp16", "fp32")
    if (stage, precision) != (0, "fp16")
]


@pytest.fixture(scope="module")
def waits(on_fake_card: Callable[[str], Any]) -> Any:
    return on_fake_card("step_waits")


@pytest.mark.parametrize(("stage", "precision"), STAGES_AND_PRECISIONS)
def test_a_step_waits_only_where_the_table_says(waits: Any, stage: int, precision: str) -> None:
    found = tables.wait_lines(stage, precision, waits[f"{stage} {precision}"])
    expected = tables.committed_waits(stage, precision)
    assert found == expected, "if this is right, run python -m tests.fake_cuda.tables"


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("stage", [1, 2])
def test_stages_1_and_2_wait_once_in_deepspeed_and_never_here(
    waits: Any, stage: int, precision: str
) -> None:
    owners: Counter[str] = Counter()
    for times, _, place in waits[f"{stage} {precision}"]:
        owners[place.split("/")[0]] += times
    assert owners.keys() <= {"deepspeed"}
    assert owners["deepspeed"] <= 1


def test_the_page_has_the_committed_tables() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.with_tables(page) == page, "run python -m tests.fake_cuda.tables"
    assert page.count("<!-- generated: gpu-") == 2
