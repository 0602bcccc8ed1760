"""The commands of the section on branches in docs/training.md train what the text says."""

import json
import re
import shlex
from pathlib import Path

import pytest

from bertds.config.case import Case, list_arms, read_case
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import branch_point
from bertds.engine.deepspeed_config import custom_lr_lambda
from bertds.runs.sweeps import write_swept_case
from bertds.training.case_check import check_cases, read_cases

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Branches\n")[2].partition("\n## ")[0]


def flags_of(command: str) -> dict[str, str]:
    """The flags by name; the values of one that is repeated are joined."""
    words = shlex.split(command.partition("launch/train.py")[2].replace("\\\n", " "))
    flags: dict[str, str] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        flags[name] = f"{flags[name]},{value}" if name in flags else value
    return flags


def assert_cooldown(case: Case, step: int, num_steps: int) -> None:
    """The rate is at its peak at the branch, falls from there, and is 0 after the last step."""
    assert case.bertds.run.max_steps == num_steps
    rate = custom_lr_lambda(case, ScheduleLengths(10**6, num_steps))
    assert rate is not None
    assert rate(step - 50_000) == rate(step) == 1
    assert 1 > rate(step + 1) > rate(num_steps - 1) > 0 == rate(num_steps)


def test_the_cooldowns_decay_from_the_branch_to_their_ends(tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    trunk, cooldowns = (
        flags_of(each) for each in re.split(r"^# .*\n", block, flags=re.MULTILINE)[1:]
    )
    case = read_case(ROOT / trunk["--ds_config"], "main", trunk["--set"])
    path = ROOT / cooldowns["--ds_config"]
    swept = write_swept_case(path, cooldowns["--sweep"], tmp_path, cooldowns["--set"])
    arms = [(arm.path, arm.run_arm) for arm in list_arms(swept)]
    assert check_cases(arms, cooldowns["--set"]) == []
    for branch, length in zip(read_cases(arms, cooldowns["--set"]), (5, 10, 20), strict=True):
        assert branch.bertds.run.branch_from is not None
        run, step = branch_point(branch.bertds.run.branch_from)
        assert (run, step) == (f"runs/{case.name}/main", 100_000)
        assert step % int(str(case.bertds.run.keep_every)) == 0
        assert_cooldown(branch, step, step + length * 1000)


@pytest.mark.parametrize("arm", ["trunk", "cooldown"])
def test_the_arms_of_the_page_are_valid(arm: str, tmp_path: Path) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", SECTION, re.DOTALL)
    content = json.loads((ROOT / "ds_configs/modernbert_base.json").read_text())
    content["bertds"]["arms"] = json.loads(block)["bertds"]["arms"]
    path = tmp_path / "wsd.json"
    path.write_text(json.dumps(content))
    case = read_case(path, arm)
    if arm == "cooldown":
        assert_cooldown(case, 100_000, 110_000)
    else:
        assert case.bertds.run.keep_every == 20_000
