"""A sweep replaces each arm by the points of a grid."""

import itertools
import json

import pytest

from bertds.config.case import list_arms, read_case
from bertds.config.sweep import swept_case
from bertds.errors import ConfigError
from bertds.runs.sweeps import write_swept_case
from tests.helpers.launching import ROOT

CASE11, CASE10, SAMPLE = (
    ROOT / f"ds_configs/{name}.json" for name in ("case11", "case10", "sample")
)


def test_each_point_of_the_grid_is_an_arm(tmp_path):
    sweep = "optimizer.params.lr=1e-4|3e-4,run.seed=0|1|2"
    path = write_swept_case(SAMPLE, sweep, tmp_path)
    assert path.name == SAMPLE.name
    found = {}
    for arm in list_arms(path):
        case = read_case(path, arm.name)
        found[arm.name] = (case.resolved["optimizer"]["params"]["lr"], case.bertds.run.seed)
    expected = itertools.product((1e-4, 3e-4), (0, 1, 2))
    texts = itertools.product(("1e-4", "3e-4"), "012")
    assert found == dict(zip((f"lr{lr}_seed{seed}" for lr, seed in texts), expected, strict=True))
    base, swept = read_case(SAMPLE, "main").resolved, read_case(path, "lr1e-4_seed0").resolved
    swept["optimizer"]["params"]["lr"] = base["optimizer"]["params"]["lr"]
    swept["bertds"]["run"]["seed"] = base["bertds"]["run"]["seed"]
    assert swept == base
    assert write_swept_case(SAMPLE, sweep, tmp_path) == path


def test_arms_are_crossed_and_links_to_other_cases_left_out():
    arms = swept_case(CASE11, "run.seed=0|1,masking.seed=5")["bertds"]["arms"]
    assert "batch64_cosine_run_seed1_masking_seed5" in arms
    assert not any(name.startswith("batch256_warmup_exponential") for name in arms)
    assert len(arms) == 2 * 4
    cosine = arms["batch64_cosine_run_seed1_masking_seed5"]
    assert cosine["train_batch_size"] == 64


def test_values_may_be_texts_lists_blocks_and_null(tmp_path):
    sweep = 'scheduler=null|{"type":"WarmupLinearLR","params":{"warmup_num_steps":5}}'
    path = write_swept_case(CASE10, f'{sweep},run.no_decay=["bias","norm"]|[]', tmp_path)
    arms = [arm.name for arm in list_arms(path)]
    assert len(arms) == 2 * 4
    assert len({name.lower() for name in arms}) == len(arms)
    cases = [read_case(path, name) for name in arms]
    assert {case.bertds.run.no_decay for case in cases} == {("bias", "norm"), ()}
    assert sum("scheduler" in case.resolved for case in cases) == 4


@pytest.mark.parametrize(
    ("sweep", "settings", "words"),
    [
        ("run.seed", "", "'run.seed' is not path=value|value"),
        ("run.seed=", "", "is not path=value|value"),
        ("run.seed=1|1", "", "run.seed has a value twice"),
        ("run.seed=1,run.seed=2", "", "a setting twice, in run.seed and run.seed"),
        ("run.seed=1,bertds.run.seed=2", "", "twice, in run.seed and bertds.run.seed"),
        ('run.seed=1,run={"seed":2}', "", "twice, in run.seed and run"),
        (",", "", "has no setting"),
        ("run.sed=1|2", "", "did you mean 'seed'"),
        ("run.seed=1|2", "bertds.run.seed=3", "--set bertds.run.seed is also in --sweep"),
        ("run.seed=1|2", 'run={"seed":3}', "--set run is also in --sweep"),
        ("run.seed=" + "|".join(map(str, range(1001))), "", "1,001 arms"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(tmp_path, sweep, settings, words):
    with pytest.raises(ConfigError, match=words.replace("|", r"\|")):
        write_swept_case(SAMPLE, sweep, tmp_path, settings)
    assert not list(tmp_path.iterdir())


def test_a_case_of_links_only_is_rejected(tmp_path):
    content = json.loads(CASE11.read_text())
    arm = "batch256_warmup_exponential"
    content["bertds"]["arms"] = {arm: content["bertds"]["arms"][arm]}
    path = tmp_path / "case.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="are runs of other cases"):
        swept_case(path, "run.seed=0|1")
