"""The scaled reference experiments: which runs there are, and how the rule scales each of them."""

import pytest

from benchmarks.reproduction import scaling_rule as rule
from benchmarks.reproduction.train_all import list_jobs
from bertds.config.case import read_case

SENTENCES = 400_000


@pytest.fixture(scope="module")
def jobs():
    """All jobs: those that train before those that reuse a run."""
    return list_jobs(list(rule.VARIANTS), list(rule.VARIANTS[0].cases))


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


def test_the_rule_keeps_what_the_arms_of_a_case_compare(jobs):
    for job in jobs:
        if job.is_shared:
            continue
        settings = rule.scaled_settings(job.arm.path, job.arm.run_arm, SENTENCES)
        shipped = read_case(job.arm.path, job.arm.run_arm)
        small = read_case(job.arm.path, job.arm.run_arm, settings)
        assert small.precision == "fp32"
        assert small.train_batch_size * rule.BATCH == shipped.train_batch_size
        assert small.resolved["optimizer"] == shipped.resolved["optimizer"]
        assert small.bertds.masking == shipped.bertds.masking
        assert small.bertds.model.num_hidden_layers == shipped.bertds.model.num_hidden_layers
        assert small.bertds.model.hidden_size * rule.WIDTH == shipped.bertds.model.hidden_size
        factor = rule.REFERENCE_SENTENCES / rule.SENTENCES / SENTENCES
        for ours, theirs in zip(small.bertds.data.train, shipped.bertds.data.train, strict=True):
            assert ours.fraction == pytest.approx(theirs.fraction * factor, abs=1e-6)
            assert ours.name.split("/")[1:] == theirs.name.split("/")[1:]


def test_every_arm_is_validated_within_the_steps_of_the_shortest_arm_of_its_case(jobs):
    """Otherwise there would be no value to compare at equal steps."""
    first: dict[str, list[float]] = {}
    length: dict[str, list[float]] = {}
    for job in jobs:
        settings = rule.scaled_settings(job.arm.path, job.arm.run_arm, SENTENCES)
        small = read_case(job.arm.path, job.arm.run_arm, settings)
        run, steps_per_epoch = small.bertds.run, 1 / small.train_batch_size  # times the sentences
        every = float(str(run.eval_every).removesuffix(" epochs"))
        first.setdefault(job.case.stem, []).append(every * steps_per_epoch)
        length.setdefault(job.case.stem, []).append(run.num_epochs * steps_per_epoch)
    for case, steps in first.items():
        assert max(steps) < min(length[case]), case
