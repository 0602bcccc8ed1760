"""Arms that differ in their seeds only are shown as their mean and range."""

import copy

import matplotlib.image
import numpy as np
import pytest

from bertds.report.case_report import write_report
from bertds.report.run_data import load_arms
from bertds.report.seed_groups import mean_over_seeds, range_of
from tests.helpers.fake_runs import CONFIG, lines_of, write_run


def write_sweep(root, rates=("1e-4", "3e-4"), seeds=(0, 1, 2), steps=20):
    """Seeds differ by 0.1 nats, rates by 1."""
    for number, rate in enumerate(rates):
        for seed in seeds:
            config = copy.deepcopy(CONFIG)
            config["optimizer"]["params"]["lr"] = float(rate)
            config["bertds"]["run"] = {"seed": seed}
            config["bertds"]["masking"] = {"seed": seed, "ratio": 0.15}
            lines = lines_of(steps - seed, loss=2 + number + seed / 10)
            write_run(root, "case1", f"lr{rate}_seed{seed}", lines, config=config)
    return root / "case1"


def test_a_mean_is_over_all_seeds_at_the_steps_that_all_have(tmp_path):
    arms = load_arms(write_sweep(tmp_path))
    low, high = mean_over_seeds(arms)
    assert (low.name, high.name) == ("lr1e-4 (3 seeds)", "lr3e-4 (3 seeds)")
    assert [low.colour, high.colour] == [0, 1]
    series = low.series("loss/train")
    assert series.at["step"][-1] == 18  # the third seed has two steps fewer
    members = [arm.series("loss/train").values[:18] for arm in arms[:3]]
    np.testing.assert_allclose(series.values, np.mean(members, 0))
    least, greatest = range_of(low, "loss/train")
    np.testing.assert_allclose(least, members[0])
    np.testing.assert_allclose(greatest, members[2])
    assert low.series("loss/valid").at["step"].tolist() == [5, 10, 15]
    assert range_of(arms[0], "loss/train") is None


def test_arms_that_differ_otherwise_are_left_alone(tmp_path):
    case = write_sweep(tmp_path, seeds=(0,))
    arms = load_arms(case)
    assert mean_over_seeds(arms) == arms
    write_run(tmp_path, "case2", "one", lines_of(5))
    content = copy.deepcopy(CONFIG)
    content["bertds"]["run"] = {"seed": 0}
    write_run(tmp_path, "case2", "two", lines_of(5), config=content)  # the default, not another
    assert len(mean_over_seeds(load_arms(tmp_path / "case2"))) == 2
    failed = {"state": "failed", "code": 4, "message": "NaN", "step": 5}
    content = copy.deepcopy(CONFIG)
    content["optimizer"]["params"]["lr"] = 1e-4
    content["bertds"] |= {"run": {"seed": 9}, "masking": {"ratio": 0.15}}
    write_run(tmp_path, "case1", "lr1e-4_seed9", lines_of(5), config=content, status=failed)
    assert len(mean_over_seeds(load_arms(case))) == 3  # a failed run has no part in a mean


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (("seed0", "seed1"), "all (2 seeds)"),
        (("large_run_seed0_masking_seed0", "large_run_seed1_masking_seed1"), "large (2 seeds)"),
        (("lr1e-4_seed10", "lr1e-4_seed11", "lr1e-4_seed12"), "lr1e-4 (3 seeds)"),
        (("seed0_lr1e-4", "seed1_lr1e-4"), "lr1e-4 (2 seeds)"),
        (("layers2-run10", "layers2-run11"), "layers2-run (2 seeds)"),
        (("a", "b"), "all (2 seeds)"),
    ],
)
def test_the_name_is_what_the_members_share(tmp_path, names, shared):
    for seed, name in enumerate(names):
        config = copy.deepcopy(CONFIG)
        config["bertds"]["run"] = {"seed": seed}
        write_run(tmp_path, "case1", name, lines_of(5), config=config)
    (arm,) = mean_over_seeds(load_arms(tmp_path / "case1"))
    assert arm.name == shared


def test_two_groups_have_different_names(tmp_path):
    for number, name in enumerate("abcd"):
        config = copy.deepcopy(CONFIG)
        config["optimizer"]["params"]["lr"] = 1e-4 * (1 + number // 2)
        config["bertds"]["run"] = {"seed": number}
        write_run(tmp_path, "case1", name, lines_of(5), config=config)
    shown = mean_over_seeds(load_arms(tmp_path / "case1"))
    assert [arm.name for arm in shown] == ["a and others (2 seeds)", "c and others (2 seeds)"]


def test_a_run_that_has_logged_nothing_does_not_hide_the_others(tmp_path):
    case = write_sweep(tmp_path, rates=("1e-4",))
    (case / "lr1e-4_seed2/metrics.jsonl").write_text("")
    mean, started = mean_over_seeds(load_arms(case))
    assert (mean.name, started.name) == ("lr1e-4 (2 seeds)", "lr1e-4_seed2")
    assert mean.lines


def test_a_range_is_not_shown_before_all_seeds_were_validated(tmp_path):
    case = write_sweep(tmp_path, rates=("1e-4",))
    assert "the least and the greatest value" in write_report(case).record.read_text()
    lines = (case / "lr1e-4_seed2/metrics.jsonl").read_text().splitlines()[:3]
    (case / "lr1e-4_seed2/metrics.jsonl").write_text("\n".join(lines) + "\n")
    text = write_report(case).record.read_text()
    assert "`lr1e-4 (3 seeds)`" in text
    assert "the least and the greatest value" not in text


def test_the_report_shows_means_ranges_and_a_band(tmp_path):
    report = write_report(write_sweep(tmp_path))
    text = report.record.read_text()
    losses = [arm.series("loss/valid").values[-1] for arm in load_arms(tmp_path / "case1")[:3]]
    ends = f"{np.mean(losses):.3f} | {min(losses):.3f} to {max(losses):.3f}"
    assert f"| `lr1e-4 (3 seeds)` | 3 | {ends} |" in text
    assert "A band is the range over the seeds" in text
    assert "| `bertds.run.seed` | 0 | 1 | 2 |" in text  # settings are those of the runs
    assert "lr3e-4 (3 seeds)" in report.page.read_text()
    assert (
        '"fill": "tonexty"' in report.page.read_text()
        or '"fill":"tonexty"' in report.page.read_text()
    )
    image = matplotlib.image.imread(report.plots[0])[..., :3]
    colour = np.array([0xFF, 0x70, 0x43]) / 255
    pale = 0.2 * colour + 0.8  # the band of the first colour on white
    assert (np.abs(image - pale).max(-1) < 0.02).sum() > 500
