"""Reads a case file: arms, patches, `--set`, and refuses what is wrong in one sentence.

    case11.json --arm's patch--> --set--> checked --> Case

Nothing here needs torch or DeepSpeed, so a mistake is found before a process group exists.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertds.config.deepspeed_schema import CaseFile
from bertds.config.messages import AnyBlock, did_you_mean, parse_block, shown
from bertds.config.optimizer_schema import (
    OPTIMIZERS,
    SCHEDULERS,
    Chosen,
    CosineAnnealingWarmRestarts,
)
from bertds.config.overrides import Json, apply_setting, parse_settings, patch_arm
from bertds.config.schema import BertdsConfig, Block
from bertds.config.strict_json import parse_json
from bertds.config.unsupported_keys import REFUSED
from bertds.errors import ConfigError

_MAX_BYTES = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One arm of a case file, resolved and checked."""

    name: str
    """Stem of the file: `case11`."""
    arm: str
    deepspeed: Json
    """DeepSpeed's own keys, without the block."""
    bertds: BertdsConfig
    resolved: Json
    """The whole file after patches, as it is saved with the run."""

    @classmethod
    def read(cls, path: Path | str, arm: str = "", settings: str = "") -> "Case":
        """An arm of a case file, for Python programs.

        Args:
            path: The case file.
            arm: One of its arms; may be left out where there is one.
            settings: Changes as in `--set`: `run.max_steps=100,train_batch_size=64`.

        Raises:
            ConfigError: Anything wrong, in one sentence.
        """
        arms = select_arms(Path(path), arm)
        if len(arms) > 1:
            names = ", ".join(each.name for each in arms)
            raise ConfigError(f"{path} has several arms: give arm one of {names}")
        return read_case(arms[0].path, arms[0].run_arm, settings)

    @property
    def train_batch_size(self) -> int:
        """B, sequences of one optimizer update over all processes."""
        size: int = self.deepspeed["train_batch_size"]
        return size

    @property
    def precision(self) -> str:
        """`bf16`, `fp16` or `fp32`."""
        enabled = [k for k in ("bf16", "fp16") if self.deepspeed.get(k, {}).get("enabled")]
        return enabled[0] if enabled else "fp32"

    @property
    def seeks_loss_scale(self) -> bool:
        """Whether gradients overflow now and then in normal training: fp16, unless it is static."""
        return self.precision == "fp16" and not self.deepspeed["fp16"].get("loss_scale", 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """An entry of `arms`: a run of this file, or (same_as) of another."""

    name: str
    path: Path
    """The file that trains it."""
    run_arm: str
    """The arm's name there."""

    @property
    def same_as(self) -> str:
        """`case6/layers3`."""
        return f"{self.path.stem}/{self.run_arm}"


def list_arms(path: Path) -> list[Arm]:
    """The arms of a case file in its order; one, `main`, if it names none.

    Raises:
        ConfigError: The file cannot be read, or an arm's `same_as` leads nowhere.
    """
    return [_follow(path, name, patch) for name, patch in _arms(path, _load(path)).items()]


def select_arms(path: Path, name: str = "") -> list[Arm]:
    """All arms of a case file, or the one with this name.

    Raises:
        ConfigError: The file cannot be read, or has no arm of this name.
    """
    arms = list_arms(path)
    selected = [arm for arm in arms if name in ("", arm.name)]
    if not selected:
        known = ", ".join(arm.name for arm in arms)
        raise ConfigError(f"--arm {name}: {path} has no such arm; its arms are {known}")
    return selected


def read_case(path: Path, arm: str, settings: str = "") -> Case:
    """One arm of a case file, patched and checked.

    Args:
        path: The case file.
        arm: Name of an arm that the file trains itself.
        settings: The text of `--set`: `a.b=value,…`.

    Raises:
        ConfigError: Anything wrong, in one sentence.
    """
    content = _load(path)
    arms = _arms(path, content)
    if arm not in arms:
        raise ConfigError(f"{path}: no arm {arm!r}{did_you_mean(arm, arms)}")
    content["bertds"].pop("arms", None)
    content = patch_arm(content, arms[arm])
    for key, value in parse_settings(settings):
        apply_setting(content, key, value)
    return _check(path, arm, content)


def resolved_case(path: Path, name: str, arm: str, content: Json) -> Case:
    """A case of a run that has begun, checked as if it were read today.

    Args:
        path: What a complaint names: the run's `case.json`.
        name: The case.
        arm: The arm.
        content: `Case.resolved` of then.

    Raises:
        ConfigError: This version of the program would not train it.
    """
    return replace(_check(path, arm, content), name=name)


def _load(path: Path) -> Json:
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.json")])
        raise ConfigError(f"--ds_config {path} is not a file{near}")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path} has more than {_MAX_BYTES} bytes, which no case file has")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("bertds"), dict):
        raise ConfigError(f'{path} has no block "bertds": add one (model, data, run)')
    return content


def _arms(path: Path, content: Json) -> dict[str, Json]:
    arms = content["bertds"].get("arms", {"main": {}})
    if not isinstance(arms, dict) or not arms:
        raise ConfigError(f"{path}: bertds.arms is {shown(arms)}, wanted a block of named patches")
    for name, patch in arms.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{path}: arm name {name!r} must be a plain file name (letters, _.+-)"
            )
        if not isinstance(patch, dict):
            raise ConfigError(f"{path}: arm '{name}' is {shown(patch)}, wanted a block (a patch)")
    return arms


def _follow(path: Path, name: str, patch: Json) -> Arm:
    if "same_as" not in patch:
        return Arm(name=name, path=path, run_arm=name)
    stem, _, run_arm = str(patch["same_as"]).partition("/")
    other = path.parent / f"{stem}.json"
    known = _arms(other, _load(other)) if _NAME.fullmatch(stem) and other.is_file() else {}
    if len(patch) != 1 or "same_as" in known.get(run_arm, patch):
        raise ConfigError(
            f"{path}: arm '{name}' has same_as {shown(patch['same_as'])}, wanted, alone in its "
            "block, the <case>/<arm> of a file beside this one that trains it"
        )
    return Arm(name=name, path=other, run_arm=run_arm)


def _check(path: Path, arm: str, content: Json) -> Case:
    where = f"{path} (arm {arm})"
    _refuse_auto(where, content)
    for key in content:
        if key in REFUSED:
            raise ConfigError(f"{where}: {key} may not be set: {REFUSED[key]}")
    file = parse_block(where, "", CaseFile, content)
    optimizer = _parse_chosen(where, "optimizer", file.optimizer, OPTIMIZERS)
    if file.scheduler is not None:
        scheduler = _parse_chosen(where, "scheduler", file.scheduler, SCHEDULERS)
        _check_floor(where, scheduler, optimizer.lr)
    _check_together(where, file)
    return Case(
        name=path.stem,
        arm=arm,
        deepspeed={key: value for key, value in content.items() if key != "bertds"},
        bertds=file.bertds,
        resolved=content,
    )


def _refuse_auto(where: str, value: Any, key: str = "") -> None:
    if value == "auto" and key != "bertds.run.resume":
        raise ConfigError(f'{where}: {key} is "auto", which nothing fills in here: give a value')
    if isinstance(value, Mapping):
        for name, nested in value.items():
            _refuse_auto(where, nested, f"{key}.{name}" if key else name)


def _parse_chosen(
    where: str, key: str, chosen: Chosen, known: Mapping[str, type[AnyBlock]]
) -> AnyBlock:
    if chosen.type not in known:
        near = did_you_mean(chosen.type, known)
        raise ConfigError(f"{where}: {key}.type is {shown(chosen.type)}{near}")
    return parse_block(where, f"{key}.params", known[chosen.type], chosen.params)


def _check_floor(where: str, scheduler: Block, peak: float) -> None:
    if isinstance(scheduler, CosineAnnealingWarmRestarts) and scheduler.eta_min > peak:
        raise ConfigError(
            f"{where}: scheduler.params.eta_min is {scheduler.eta_min}, above "
            f"optimizer.params.lr {peak}: lower it"
        )


def _check_together(where: str, file: CaseFile) -> None:
    data, model = file.bertds.data, file.bertds.model
    batch, lanes = file.train_batch_size, data.lanes
    if data.seq_len > model.max_position_embeddings:
        raise ConfigError(
            f"{where}: data.seq_len is {data.seq_len}, above model.max_position_embeddings "
            f"{model.max_position_embeddings}: raise the latter or lower the former"
        )
    if file.fp16.enabled and file.zero_optimization.stage == 0:
        raise ConfigError(
            f"{where}: fp16.enabled is true at zero_optimization.stage 0, where DeepSpeed 0.19.8 "
            "never scales the loss: set the stage to 1, or use bf16"
        )
    if file.optimizer.type == "Lamb" and file.zero_optimization.stage > 0:
        raise ConfigError(
            f"{where}: optimizer.type is Lamb at zero_optimization.stage "
            f"{file.zero_optimization.stage}, which divides the layers whose norms it compares: set "
            "the stage to 0, or use AdamW"
        )
    if lanes is not None and batch % lanes:
        raise ConfigError(
            f"{where}: data.lanes is {lanes}, which does not divide train_batch_size {batch}: "
            "choose a divisor, or leave it out"
        )
