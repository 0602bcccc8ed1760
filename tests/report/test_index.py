"""The index over all cases of a directory."""

import json
import re

import pytest

from bertds.report.index import case_directories, write_index
from tests.helpers.fake_runs import config, lines_of, write_run, write_same


@pytest.mark.usefixtures("no_plots")
def test_the_index_lists_all_cases_of_a_directory(tmp_path):
    for arm, steps in (("layers4", 40), ("layers6", 60)):
        write_run(tmp_path, "case2", arm, lines_of(steps))
    write_run(tmp_path, "case10", "lr5e-4", lines_of(20), config=config("rates"))
    write_same(tmp_path, "case10", "lr5e-5", "case2/layers4")
    (tmp_path / "notes").mkdir()
    (tmp_path / "case2" / "record.md").write_text("**Verdict:** both | alike.\n\nMore of it.\n")
    assert case_directories(tmp_path / "case2") == []
    assert [path.name for path in case_directories(tmp_path)] == ["case2", "case10"]

    index = write_index(tmp_path)
    record = index.record.read_text()
    assert "| [case2](case2/record.md) | depth | 2 |" in record
    assert "both \\| alike. |" in record
    assert "| [case10](case10/record.md) | rates | 2 |" in record
    assert record.index("[case2]") < record.index("[case10]")
    page = index.page.read_text()
    data = re.search(r'<script type="application/json">(.*?)</script>', page).group(1)
    assert list(json.loads(data)) == ["case2", "case10"]
    assert 'href="#case10"' in page
    for case in index.cases:
        assert case.page.exists()
        assert f'href="{case.page.parent.name}/record.html"' in page


def test_a_directory_without_cases_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="has no case"):
        write_index(tmp_path)


@pytest.mark.usefixtures("no_plots")
def test_the_best_arm_has_the_least_validation_loss(tmp_path):
    """Its accuracy is the one of the same step, also if another arm or step has a greater one."""
    points = {"good": [(3.0, 0.2), (1.5, 0.3), (2.0, 0.4)], "accurate": [(1.6, 0.9)]}
    for arm, values in points.items():
        lines = [
            {"step": step, "loss/valid": loss, "acc/valid": accuracy}
            for step, (loss, accuracy) in enumerate(values, start=1)
        ]
        write_run(tmp_path, "case1", arm, lines)
    record = write_index(tmp_path).record.read_text()
    assert "| best arm | valid loss | valid acc |" in record
    assert "| `good` | 1.500 | 0.3000 |" in record
