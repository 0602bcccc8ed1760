"""The record at a small scale: which runs there are, and what the rule makes of each."""

import importlib

import pytest

from bertds.config.case import read_case
from tests.helpers.launching import ROOT

SENTENCES = 400_000


@pytest.fixture(scope="module")
def jobs():
    """Every job of the record, those that train before those that draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        record = importlib.import_module("record")
        return record.jobs_of(list(record.VARIANTS), list(record.VARIANTS[0].cases))


def test_a_run_is_trained_once_and_before_it_is_drawn_elsewhere(jobs):
    trained = [job.directory for job in jobs if not job.is_shared]
    drawn = [job for job in jobs if job.is_shared]
    assert jobs == [*(job for job in jobs if not job.is_shared), *drawn]
    assert len(set(trained)) == len(trained)
    for job in drawn:
        assert f"{job.variant.name}/{job.arm.same_as}" in trained
    eleven = [f"seed0/case{number}/" for number in range(1, 12)]
    found = [name for name in trained if name.startswith(tuple(eleven))]
    assert len(found) == 25 + 1  # the original's, and case 11's extra


def test_the_rule_keeps_what_the_arms_of_a_case_differ_in(jobs):
    rule = importlib.import_module("record_rule")
    for job in jobs:
        if job.is_shared:
            continue
        settings = rule.scaled(job.arm.path, job.arm.run_arm, SENTENCES)
        shipped = read_case(job.arm.path, job.arm.run_arm)
        small = read_case(job.arm.path, job.arm.run_arm, settings)
        assert small.precision == "fp32"
        assert small.train_batch_size * rule.BATCH == shipped.train_batch_size
        assert small.resolved["optimizer"] == shipped.resolved["optimizer"]
        assert small.bertds.masking == shipped.bertds.masking
        assert small.bertds.model.num_hidden_layers == shipped.bertds.model.num_hidden_layers
        assert small.bertds.model.hidden_size * rule.WIDTH == shipped.bertds.model.hidden_size
        share = rule.RECORD_SENTENCES / rule.SENTENCES / SENTENCES
        for one, other in zip(small.bertds.data.train, shipped.bertds.data.train, strict=True):
            assert one.fraction == pytest.approx(other.fraction * share, abs=1e-6)
            assert one.name.split("/")[1:] == other.name.split("/")[1:]


def test_every_arm_is_validated_within_the_steps_of_its_cases_shortest(jobs):
    """Or there would be nothing to compare at equal steps."""
    rule = importlib.import_module("record_rule")
    first: dict[str, list[float]] = {}
    length: dict[str, list[float]] = {}
    for job in jobs:
        settings = rule.scaled(job.arm.path, job.arm.run_arm, SENTENCES)
        small = read_case(job.arm.path, job.arm.run_arm, settings)
        run, steps_an_epoch = small.bertds.run, 1 / small.train_batch_size  # times the sentences
        every = float(str(run.eval_every).removesuffix(" epochs"))
        first.setdefault(job.case.stem, []).append(every * steps_an_epoch)
        length.setdefault(job.case.stem, []).append(run.num_epochs * steps_an_epoch)
    for case, steps in first.items():
        assert max(steps) < min(length[case]), case
