"""Read a case file: arms, patches, `--set`, and the checks of the result.

    case11.json --patch of the arm--> --set--> checked --> Case

This needs neither torch nor DeepSpeed, so a mistake is reported before a process group exists.
`bertds/engine/deepspeed_keys.py` checks the values that only DeepSpeed knows.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertds.config.checks import check_content
from bertds.config.deepspeed_schema import CaseFile, DeepSpeedKeys
from bertds.config.messages import did_you_mean, problems_error, shown
from bertds.config.overrides import (
    Json,
    apply_setting,
    parse_settings,
    patch_arm,
    settings_patch,
)
from bertds.config.schema import NAME_PATTERN, BertdsConfig
from bertds.config.stages import stage_contents
from bertds.config.strict_json import parse_json
from bertds.config.unsupported_keys import UNSUPPORTED_KEYS
from bertds.errors import ConfigError

Settings = str | Mapping[str, Any]
"""Changes to a case file: the text of `--set`, or a mapping."""

_MAX_BYTES = 4 << 20
_DEEPSPEED_KEYS = DeepSpeedKeys.model_fields.keys() | UNSUPPORTED_KEYS.keys()
_NEAR_NAME = 0.75
"""Least similarity of two file names, without their ending, for a suggestion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One arm of a case file, resolved and checked."""

    name: str
    """File name without `.json`: `case11`."""
    arm: str
    deepspeed: Json
    """DeepSpeed's keys, without the `bertds` block."""
    bertds: BertdsConfig
    resolved: Json
    """The whole file after all patches, as it is saved with the run."""
    stage: str = ""
    """Name of the stage that this is, of a run with stages."""
    stages: tuple["Case", ...] = ()
    """The case of each stage of the run; empty without stages. The keys above are the first's."""

    @property
    def train_batch_size(self) -> int:
        """Sequences of one optimizer step, over all ranks (B)."""
        size: int = self.deepspeed["train_batch_size"]
        return size

    @property
    def precision(self) -> str:
        """`bf16`, `fp16` or `fp32`."""
        enabled = [k for k in ("bf16", "fp16") if self.deepspeed.get(k, {}).get("enabled")]
        return enabled[0] if enabled else "fp32"

    @property
    def seeks_loss_scale(self) -> bool:
        """Whether the loss scale is dynamic (fp16), so that gradients overflow now and then."""
        return self.precision == "fp16" and not self.deepspeed["fp16"].get("loss_scale", 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """An entry of `arms`: a run of this file, or of another file (same_as)."""

    name: str
    path: Path
    """The case file that trains it."""
    run_arm: str
    """Its name in that file."""

    @property
    def same_as(self) -> str:
        """The run as `<case>/<arm>`: `case6/layers3`."""
        return f"{self.path.stem}/{self.run_arm}"


def list_arms(path: Path) -> list[Arm]:
    """List the arms of a case file in their order; one arm, `main`, if the file names none.

    Raises:
        ConfigError: The file cannot be read, or the `same_as` of an arm is wrong.
    """
    return [
        _resolve_arm(path, name, patch)
        for name, patch in arm_patches(path, read_file(path)).items()
    ]


def select_arms(path: Path, name: str = "") -> list[Arm]:
    """List all arms of a case file, or only the one with this name.

    Raises:
        ConfigError: The file cannot be read, or has no arm with this name.
    """
    arms = list_arms(path)
    selected = [arm for arm in arms if name in ("", arm.name)]
    if not selected:
        known = ", ".join(arm.name for arm in arms)
        raise ConfigError(f"--arm {name}: {path} has no such arm; its arms are {known}")
    return selected


def read_case(path: Path, arm: str, settings: Settings = "") -> Case:
    """Read an arm of a case file, apply all patches, and check the result.

    Args:
        path: The case file.
        arm: Name of an arm without `same_as`.
        settings: The text of `--set`: `a.b=value,…`; or the same as a mapping.

    Raises:
        ConfigError: The file, the arm or a setting is wrong; the message has all mistakes of the
            file.
    """
    return case_of(path, arm, read_content(path, arm, settings))


def read_content(path: Path, arm: str, settings: Settings = "") -> Json:
    """Read an arm of a case file and apply all patches, without a check of the result.

    Raises:
        ConfigError: The file cannot be read, has no such arm, or no path of a setting.
        TypeError: The settings are neither text nor a mapping.
    """
    content = read_file(path)
    patches = arm_patches(path, content)
    if arm not in patches:
        raise ConfigError(f"{path}: no arm {arm!r}{did_you_mean(arm, patches)}")
    content["bertds"].pop("arms", None)
    content = patch_arm(content, patches[arm])
    if isinstance(settings, Mapping):
        return patch_arm(content, settings_patch(settings))
    if not isinstance(settings, str):
        raise TypeError(
            f"settings is {settings!r}, expected a mapping such as {{'run.max_steps': 100}}, or "
            "text such as 'run.max_steps=100'"
        )
    for key, value in parse_settings(settings):
        apply_setting(content, key, value)
    return content


def resolved_case(path: Path, name: str, arm: str, content: Json) -> Case:
    """Restore the case of an existing run, with the checks of the current version.

    Args:
        path: The run's `case.json`, for error messages.
        name: The name of the case.
        arm: The name of the arm.
        content: Its `Case.resolved`.

    Raises:
        ConfigError: This version of the program does not accept the case.
    """
    case = case_of(path, arm, content)
    stages = tuple(replace(stage, name=name) for stage in case.stages)
    return replace(case, name=name, stages=stages)


def case_of(path: Path, arm: str, content: Json) -> Case:
    """Check the content of an arm.

    Raises:
        ConfigError: It has mistakes; the message has all of them.
    """
    checked = check_content(content)
    if checked.file is None:
        raise problems_error(f"{path} (arm {arm})", checked.problems)
    stages = [
        _case_of(path, arm, stage_content, checked.stages.get(name, checked.file), name)
        for name, stage_content in stage_contents(content).items()
    ]
    if not checked.stages:
        return stages[0]
    return replace(stages[0], resolved=content, stage="", stages=tuple(stages))


def _case_of(path: Path, arm: str, content: Json, file: CaseFile, stage: str) -> Case:
    return Case(
        name=path.stem,
        arm=arm,
        deepspeed={key: value for key, value in content.items() if key != "bertds"},
        bertds=file.bertds,
        resolved=content,
        stage=stage,
    )


def read_file(path: Path) -> Json:
    """Read a case file without a check of its keys.

    Raises:
        ConfigError: It is missing, too large, not JSON, or has no block "bertds".
    """
    if not path.is_file():
        raise ConfigError(f"--ds_config {path} {_why_not_a_file(path)}")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_BYTES} bytes: this is not a case file")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("bertds"), dict):
        is_deepspeed = isinstance(content, dict) and _DEEPSPEED_KEYS & content.keys()
        raise ConfigError(
            f'{path} has no block "bertds": add one (model, data, run)'
            + (f", or use python -m bertds import-config {path} --out CASE" if is_deepspeed else "")
        )
    return content


def _why_not_a_file(path: Path) -> str:
    """Say what is wrong with a path; names a file only if its name is much alike."""
    if path.is_dir():
        return "is a directory, and not a file: name a case file in it"
    if not path.parent.is_dir():
        return f"is not a file: the directory {path.parent} does not exist"
    names = {file.stem: file.name for file in path.parent.glob("*.json")}
    near = difflib.get_close_matches(path.stem, names, n=1, cutoff=_NEAR_NAME)
    return f"is not a file: did you mean '{names[near[0]]}'?" if near else "is not a file"


def arm_patches(path: Path, content: Json) -> dict[str, Json]:
    """The patch of each arm by name.

    Raises:
        ConfigError: The block of arms is malformed.
    """
    arms = content["bertds"].get("arms", {"main": {}})
    if not isinstance(arms, dict) or not arms:
        raise ConfigError(
            f"{path}: bertds.arms is {shown(arms)}, expected a block with a patch for each arm"
        )
    for name, patch in arms.items():
        if not NAME_PATTERN.fullmatch(name):
            raise ConfigError(
                f"{path}: arm name {name!r} must be a plain file name (letters, digits, _.+-)"
            )
        if not isinstance(patch, dict):
            raise ConfigError(f"{path}: arm '{name}' is {shown(patch)}, expected a block (a patch)")
    return arms


def _resolve_arm(path: Path, name: str, patch: Json) -> Arm:
    """Find the file that trains an arm."""
    if "same_as" not in patch:
        return Arm(name=name, path=path, run_arm=name)
    stem, _, run_arm = str(patch["same_as"]).partition("/")
    other = path.parent / f"{stem}.json"
    known = (
        arm_patches(other, read_file(other))
        if NAME_PATTERN.fullmatch(stem) and other.is_file()
        else {}
    )
    if len(patch) != 1 or "same_as" in known.get(run_arm, patch):
        raise ConfigError(
            f"{path}: arm '{name}' has same_as {shown(patch['same_as'])}, expected the <case>/<arm> "
            "of a file in the same directory that trains it, and no other key"
        )
    return Arm(name=name, path=other, run_arm=run_arm)
