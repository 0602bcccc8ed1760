"""The report shows downstream scores per arm, and nothing of them if there are none."""

import pytest

from bertds.report.case_report import write_report
from bertds.runs.downstream_scores import DownstreamScores, Trial
from tests.helpers.fake_runs import config, lines_of, write_run

pytestmark = pytest.mark.usefixtures("no_plots")


def write_scores(run, name, values, *, rate=1e-4, **settings):
    trials = tuple(
        Trial(rate=rate, seed=seed, scores=dict(scores), seconds=1.0)
        for seed, scores in enumerate(values)
    )
    settings = {"weights": "pre-trained", "step": 1000, **settings}
    DownstreamScores(settings=settings, trials=trials).write(run / "finetune" / f"{name}.json")


def rows_of(case_dir):
    text = write_report(case_dir).record.read_text()
    return [line for line in text.splitlines() if line.startswith(("| sst2", "| mrpc"))]


def test_each_arm_has_its_scores(case6):
    assert "Downstream" not in write_report(case6).record.read_text()
    write_scores(case6 / "layers2", "sst2", [{"accuracy": 0.5}, {"accuracy": 0.7}])
    write_scores(case6 / "layers3", "sst2", [{"accuracy": 0.8}], weights="random", step=None)
    write_scores(case6 / "layers2", "mrpc", [{"accuracy": 0.25, "f1": 0.75}])
    assert rows_of(case6) == [
        "| mrpc | `layers2` | pre-trained | 1,000 | 0.0001 | 1 | accuracy 0.2500, f1 0.7500 |",
        "| sst2 | `layers2` | pre-trained | 1,000 | 0.0001 | 2 | accuracy 0.6000 ± 0.1414 |",
        "| sst2 | `layers3` | random | – | 0.0001 | 1 | accuracy 0.8000 |",
    ]


def test_arms_that_differ_in_seeds_are_one(tmp_path):
    for seed, values in ((0, (0.5, 0.7)), (1, (0.6,))):
        settings = config()
        settings["bertds"]["run"] = {"seed": seed}
        run = write_run(tmp_path, "case", f"seed{seed}", lines_of(10), config=settings)
        write_scores(run, "sst2", [{"accuracy": value} for value in values], rate=10.0**-seed)
    assert rows_of(tmp_path / "case") == [
        "| sst2 | `all (2 seeds)` | pre-trained | 1,000 | 0.1, 1 | 3 | accuracy 0.6000 ± 0.1000 |"
    ]
