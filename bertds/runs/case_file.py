"""Reads a case file whose model may follow `run.init_from` or `run.branch_from`.

    file --arm, --set--> content --model of init_from, if the file leaves it open--> checked --> Case

A model is open if one of its required keys, the four sizes, is missing. Keys that the file gives
override those of the directory. A branch has the model of its trunk. Needs no torch.
"""

import contextlib
import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from bertds.config import case as config
from bertds.config.case import Settings, select_arms
from bertds.config.checks import check_content
from bertds.config.messages import Problem, problems_error
from bertds.config.overrides import Json
from bertds.config.schema import ModelConfig, branch_point
from bertds.errors import ConfigError
from bertds.huggingface.model_block import model_block
from bertds.io.json_files import read_json

_SIZES = {name for name, field in ModelConfig.model_fields.items() if field.is_required()}
_SOURCE_FILES = ("config.json", "tokenizer.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case(config.Case):
    """One arm of a case file, resolved and checked."""

    @classmethod
    def read(cls, path: Path | str, arm: str = "", settings: Settings = "") -> "Case":
        """Read an arm of a case file, for Python programs.

        Args:
            path: The case file.
            arm: One of its arms; may be omitted if there is only one.
            settings: Changes as in `--set`: `run.max_steps=100,train_batch_size=64`; or as a
                mapping, `{"run.max_steps": 100}`, whose blocks are merged as those of an arm.

        Raises:
            ConfigError: The file, the arm or a setting is wrong.
            TypeError: The settings are neither text nor a mapping.
        """
        arms = select_arms(Path(path), arm)
        if len(arms) > 1:
            names = ", ".join(each.name for each in arms)
            raise ConfigError(f"{path} has several arms: set arm to one of {names}")
        case = read_case(arms[0].path, arms[0].run_arm, settings)
        return cls(**{field.name: getattr(case, field.name) for field in dataclasses.fields(case)})


def read_case(
    path: Path, arm: str, settings: Settings = "", out: Path | None = None
) -> config.Case:
    """Read an arm of a case file and check it, as `check_case` does.

    Raises:
        ConfigError: The file, the arm or a setting is wrong; the message has all mistakes.
    """
    content, problems = check_case(path, arm, settings, out)
    if problems:
        raise problems_error(f"{path} (arm {arm})", problems)
    return config.case_of(path, arm, content)


def check_case(
    path: Path, arm: str, settings: Settings = "", out: Path | None = None
) -> tuple[Json, list[Problem]]:
    """Read an arm of a case file, with the model that it continues if the file leaves it open.

    Args:
        path: The case file.
        arm: Name of an arm without `same_as`.
        settings: The text of `--set`, or the same as a mapping.
        out: Directory of the runs. A run that exists keeps its model if `run.init_from` is gone.

    Returns:
        The content after all patches, and its mistakes.

    Raises:
        ConfigError: The file cannot be read, has no such arm, or no path of a setting.
    """
    content = config.read_content(path, arm, settings)
    origin = _origin(content)
    if origin is None:
        return content, check_content(content).problems
    key, source = origin
    given = content["bertds"].get("model", {})
    model_of = _model_of if key == "init_from" else _model_of_trunk
    try:
        model = model_of(source, out and out / path.stem / arm)
    except ConfigError as error:
        missing = {"bertds.model", *(f"bertds.model.{name}" for name in _SIZES - given.keys())}
        others = [each for each in check_content(content).problems if each.key not in missing]
        return content, [Problem(f"bertds.run.{key}", str(error)), *others]
    content["bertds"]["model"] = {**model, **given}
    return content, check_content(content).problems


def _origin(content: Json) -> tuple[str, Path] | None:
    """The key and the directory that the model follows; None if the file gives the model."""
    block = content.get("bertds")
    run, model = (block.get("run"), block.get("model", {})) if isinstance(block, dict) else ({}, {})
    if not isinstance(run, dict) or not isinstance(model, dict) or model.keys() >= _SIZES:
        return None
    source, trunk = run.get("init_from"), run.get("branch_from")
    if isinstance(source, str) and source:
        return "init_from", Path(source).expanduser()
    if isinstance(trunk, str):
        with contextlib.suppress(ValueError):  # told with the other mistakes
            return "branch_from", Path(branch_point(trunk)[0]).expanduser()
    return None


def _model_of(source: Path, run_dir: Path | None) -> Json:
    """The `model` block of a Hugging Face directory, or of the run that started from it."""
    files = [source / name for name in _SOURCE_FILES]
    saved = _saved_model(run_dir)
    if saved and not all(file.is_file() for file in files):
        return saved
    if source.is_dir():
        times = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
        return _read_model(source, times)
    raise ConfigError(
        f"run.init_from is {str(source)!r}, expected a directory in Hugging Face's format: download "
        "the model first"
    )


def _model_of_trunk(trunk: Path, run_dir: Path | None) -> Json:
    """The `model` block of the run that a run branches from, or of the branch if that is gone."""
    model = _saved_model(trunk) or _saved_model(run_dir)
    if model is None:
        raise ConfigError(
            f"run.branch_from: {trunk} is not a run directory, so that its model is not known: train "
            "that run first, or give bertds.model"
        )
    return model


def _saved_model(run_dir: Path | None) -> Json | None:
    """The model in a run's `case.json`, if there is one."""
    content = read_json(run_dir / "case.json") if run_dir else {}
    if run_dir and "same_as" in content:
        content = read_json(run_dir.absolute().parent.parent / content["same_as"] / "case.json")
    model: Json | None = content.get("config", {}).get("bertds", {}).get("model")
    return model


@functools.lru_cache(maxsize=64)
def _read_model(source: Path, _: tuple[int, ...]) -> Json:
    """Read a directory once for all arms, unless its files change."""
    try:
        return model_block(source)
    except ConfigError as error:
        raise ConfigError(f"run.init_from {error}") from error
