"""Fixtures of the report tests: a case of three arms, and reports without real plots."""

import pytest

from bertds.report import case_report
from tests.helpers.fake_runs import config, lines_of, write_run


@pytest.fixture
def case6(tmp_path):
    """Three arms of different depth that end at different steps."""
    for layers, steps in ((2, 40), (3, 30), (10, 20)):
        lines = lines_of(steps, loss=2 + layers / 10)
        write_run(tmp_path, "case6", f"layers{layers}", lines, config=config(layers=layers))
    return tmp_path / "case6"


@pytest.fixture
def no_plots(monkeypatch):
    """Replaces the plots, which take most of the time, by empty bytes."""

    def draw(*_, formats, **__):
        return dict.fromkeys(formats, bytes(200))

    monkeypatch.setattr(case_report, "draw_panels", draw)
