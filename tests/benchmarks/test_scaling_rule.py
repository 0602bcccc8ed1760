"""The scaled reference experiments: which runs there are, and how the rule scales each of them."""

import json
from pathlib import Path

import pytest

from benchmarks.reproduction import scaling_rule as rule
from benchmarks.reproduction.claims import COMPARISONS, FINDINGS
from benchmarks.reproduction.train_all import list_jobs, write_cases
from bertds.config.case import list_arms, read_case
from tests.helpers.launching import ROOT

SENTENCES = 400_000
SHIPPED = sorted((ROOT / "ds_configs").glob("case*.json"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    """The directory of the scaled case files."""
    return write_cases(SENTENCES, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def jobs(cases):
    """All jobs: those that train before those that reuse a run."""
    return list_jobs(list(rule.VARIANTS), list(rule.VARIANTS[0].cases), cases)


def own_arms(path):
    return [arm.name for arm in list_arms(path) if arm.path == path]


def test_a_run_is_trained_once_and_before_another_case_reuses_it(jobs):
    trained = [job.directory for job in jobs if not job.is_shared]
    shared = [job for job in jobs if job.is_shared]
    assert jobs == [*(job for job in jobs if not job.is_shared), *shared]
    assert len(set(trained)) == len(trained)
    for job in shared:
        assert f"{job.variant.name}/{job.arm.same_as}" in trained
    eleven = tuple(f"seed0/case{number}/" for number in range(1, 12))
    of_eleven = [name for name in trained if name.startswith(eleven)]
    assert len(of_eleven) == 25 + 1  # the original runs, and the extra arm of case 11
    assert "seed2/case12/prenorm_rope" in trained
    assert not any(name.endswith(("mask15", "batch256_lr5e-4")) for name in trained)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_rule_keeps_what_the_arms_of_a_case_compare(path, cases):
    for arm in own_arms(path):
        shipped, small = read_case(path, arm), read_case(cases / path.name, arm)
        assert small.precision == "fp32"
        assert small.train_batch_size * rule.BATCH == shipped.train_batch_size
        assert small.resolved["optimizer"] == shipped.resolved["optimizer"]
        assert small.bertds.masking == shipped.bertds.masking
        assert small.bertds.model.num_hidden_layers == shipped.bertds.model.num_hidden_layers
        assert small.bertds.model.hidden_size * rule.WIDTH == shipped.bertds.model.hidden_size
        repeated = shipped.bertds.run.num_epochs / rule.EPOCHS
        factor = rule.REFERENCE_SENTENCES / rule.SENTENCES / SENTENCES
        factor *= max(1, rule.LEAST_EPOCHS / repeated)
        for ours, theirs in zip(small.bertds.data.train, shipped.bertds.data.train, strict=True):
            assert ours.fraction == pytest.approx(theirs.fraction * factor, abs=1e-6)
            assert ours.name.split("/")[1:] == theirs.name.split("/")[1:]
        is_rope = small.bertds.model.positions == "rope"
        assert is_rope == (path.stem != "case12" or arm in ("prenorm_rope", "modernbert"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_arm_is_validated_within_the_steps_of_the_shortest_arm_of_its_case(path, cases):
    """Otherwise there would be no value to compare at equal steps."""
    first, lengths = [], []
    for arm in own_arms(path):
        small = read_case(cases / path.name, arm)
        run, steps_per_epoch = small.bertds.run, 1 / small.train_batch_size  # times the sentences
        first.append(float(str(run.eval_every).removesuffix(" epochs")) * steps_per_epoch)
        lengths.append(run.num_epochs * steps_per_epoch)
    assert max(first) < min(lengths)


def test_a_seed_changes_all_but_the_validation_masks(cases):
    settings = [seed.settings for seed in rule.SEEDS]
    read = [read_case(cases / "case4.json", "static", each).bertds for each in settings]
    assert [each.run.seed for each in read] == [each.masking.seed for each in read] == [0, 1, 2]
    assert {each.masking.valid_seed for each in read} == {0}


def test_every_compared_run_exists_and_every_finding_is_tested(cases):
    arms = {
        f"{path.stem}/{arm.name}": set(json.loads(path.read_text())["bertds"]["data"]["valid"])
        for path in cases.glob("*.json")
        for arm in list_arms(path)
    }
    for comparison in COMPARISONS:
        for side in (comparison.left, comparison.right):
            assert side.valid_set in {"", *arms[side.run]}
            assert side.checkpoint == "last" or comparison.case in rule.OVERFITTING
    tested = {each.case for each in COMPARISONS if each.is_original}
    assert tested == set(FINDINGS) == {f"case{number}" for number in range(1, 12)}
