"""Reads a case file: arms, patches, `--set`, and refuses what is wrong in one sentence.

    case11.json --arm patch (RFC 7396)--> --set--> checked --> Case

Nothing here needs torch or DeepSpeed, so a mistake is found before a process group exists.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from bertds.config import BertdsConfig, Block
from bertds.deepspeed_blocks import OPTIMIZERS, PASSED_ON, REFUSED, SCHEDULERS, Top

Json = dict[str, Any]
AnyBlock = TypeVar("AnyBlock", bound=Block)
_MAX_BYTES = 4 << 20


class CaseError(ValueError):
    """A case file, or a `--set`, that cannot be trained; exit code 2."""

    code = 2


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


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSplit:
    """How a global batch is divided."""

    micro_batch_size: int
    """Sequences that a process computes at once."""
    accumulation: int
    """Micro-steps of an optimizer step."""


def split_batch(case: Case, world_size: int) -> BatchSplit:
    """The largest micro-batch up to run.max_micro_batch_size that divides a process's share.

    Raises:
        CaseError: The number of processes does not divide the batch.
    """
    batch, most = case.train_batch_size, case.bertds.run.max_micro_batch_size
    if batch % world_size:
        fitting = [w for w in range(1, batch + 1) if batch % w == 0]
        near = [str(w) for w in sorted(fitting, key=lambda w: abs(w - world_size))[:2]]
        raise CaseError(
            f"train_batch_size {batch} cannot be divided among {world_size} processes: start "
            f"{' or '.join(near)}, or change the batch"
        )
    share = batch // world_size
    micro = max(size for size in range(1, min(share, most) + 1) if share % size == 0)
    return BatchSplit(micro_batch_size=micro, accumulation=share // micro)


def list_arms(path: Path) -> list[Arm]:
    """The arms of a case file in its order; one, `main`, if it names none.

    Raises:
        CaseError: The file cannot be read, or an arm's `same_as` leads nowhere.
    """
    return [_follow(path, name, patch) for name, patch in _arms(path).items()]


def read_case(path: Path, arm: str, settings: str = "") -> Case:
    """One arm of a case file, patched and checked.

    Args:
        path: The case file.
        arm: Name of an arm that the file trains itself.
        settings: The text of `--set`: `a.b=value,…`.

    Raises:
        CaseError: Anything wrong, in one sentence.
    """
    arms = _arms(path)
    if arm not in arms:
        raise CaseError(f"{path}: no arm '{arm}'{_did_you_mean(arm, arms)}")
    content = _load(path)
    content.get("bertds", {}).pop("arms", None)
    content = _patch_arm(content, arms[arm])
    for key, value in parse_settings(settings):
        _set(content, key, value)
    return _check(path, arm, content)


def parse_settings(text: str) -> list[tuple[str, Any]]:
    """The (path, value) pairs of `--set`; commas in brackets and quotes do not split.

    A value is JSON, else a plain text.

    Raises:
        CaseError: A part without `=`.
    """
    pairs = []
    for part in _split(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise CaseError(f"--set '{part}' is not of the form path=value, such as run.seed=1")
        pairs.append((key.strip(), _json_or_text(value.strip())))
    return pairs


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except json.JSONDecodeError:
        return value


def _split(text: str) -> list[str]:
    parts, depth, quoted, start = [], 0, False, 0
    for i, letter in enumerate(text):
        if letter == '"' and text[i - 1 : i] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (letter in "[{") - (letter in "]}")
            if letter == "," and depth == 0:
                parts.append(text[start:i])
                start = i + 1
    return [part for part in [*parts, text[start:]] if part.strip()]


def _load(path: Path) -> Json:
    if not path.is_file():
        near = _did_you_mean(path.name, [p.name for p in path.parent.glob("*.json")])
        raise CaseError(f"--ds_config {path} is not a file{near}")
    if path.stat().st_size > _MAX_BYTES:
        raise CaseError(f"{path} has more than {_MAX_BYTES} bytes, which no case file has")
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CaseError(f"{path} is not JSON: {error}") from error
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("bertds"), dict):
        raise CaseError(f'{path} has no block "bertds": add one (model, data, run)')
    return content


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    content: Json = {}
    for key, value in pairs:
        if key in content:
            raise CaseError(f"the key '{key}' stands twice in one block: delete one")
        content[key] = value
    return content


def _refuse_constant(text: str) -> Any:
    raise CaseError(f"the value {text} is not a number that can be used: give a finite one")


def _arms(path: Path) -> dict[str, Json]:
    arms = _load(path)["bertds"].get("arms", {"main": {}})
    if not isinstance(arms, dict) or not arms:
        raise CaseError(f"{path}: bertds.arms is {arms!r}, wanted a block of named patches")
    for name, patch in arms.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
            raise CaseError(f"{path}: arm name '{name}' must be a plain file name (letters, _.+-)")
        if not isinstance(patch, dict):
            raise CaseError(f"{path}: arm '{name}' is {patch!r}, wanted a block (a merge patch)")
    return arms


def _follow(path: Path, name: str, patch: Json) -> Arm:
    if "same_as" not in patch:
        return Arm(name=name, path=path, run_arm=name)
    stem, _, run_arm = str(patch["same_as"]).partition("/")
    other = path.with_name(f"{stem}.json")
    if len(patch) != 1 or not other.is_file() or "same_as" in _arms(other).get(run_arm, patch):
        raise CaseError(
            f"{path}: arm '{name}' has same_as '{patch['same_as']}', wanted, alone in its block, "
            "the <case>/<arm> of a file beside this one that trains it"
        )
    return Arm(name=name, path=other, run_arm=run_arm)


def _patch_arm(content: Json, patch: Json) -> Json:
    """RFC 7396; but a changed `type` replaces the `params` of optimizer and scheduler."""
    merged: Json = merge_patch(content, patch)
    for block in ("optimizer", "scheduler"):
        old, new = content.get(block), patch.get(block)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            continue
        if new.get("type", old.get("type")) != old.get("type"):
            merged[block]["params"] = merge_patch({}, new.get("params", {}))
    return merged


def merge_patch(content: Any, patch: Any) -> Any:
    """RFC 7396: blocks are merged, `null` deletes, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(content) if isinstance(content, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _set(content: Json, key: str, value: Any) -> None:
    """One `--set`; a path that starts with a key of our block may leave `bertds.` out."""
    parts = key.split(".")
    if parts[0] in BertdsConfig.model_fields:
        parts = ["bertds", *parts]
    _check_path(key, parts)
    block = content
    for part in parts[:-1]:
        block = block.setdefault(part, {})
        if not isinstance(block, dict):
            raise CaseError(f"--set {key}: '{part}' is not a block, so nothing can be set in it")
    if value is None:
        block.pop(parts[-1], None)
    else:
        block[parts[-1]] = value


def _check_path(key: str, parts: list[str]) -> None:
    """Refuse a path that no case file has; what stands in it is checked with the whole file."""
    known: Iterable[str] = [*PASSED_ON, "optimizer", "scheduler", "bertds"]
    if parts[0] not in known:
        names = [*known, *BertdsConfig.model_fields]
        raise CaseError(f"--set {key}: unknown path{_did_you_mean(parts[0], names)}")
    if parts[0] in ("optimizer", "scheduler") and (parts[1:2] or ["type"])[0] not in (
        "type",
        "params",
    ):
        raise CaseError(f"--set {key}: unknown path{_did_you_mean(parts[1], ['type', 'params'])}")
    nested = PASSED_ON.get(parts[0])
    if nested and len(parts) > 1 and parts[1] not in nested:
        raise CaseError(f"--set {key}: unknown path{_did_you_mean(parts[1], nested)}")
    if parts[0] == "bertds":
        _check_model_path(key, parts[1:], BertdsConfig)


def _check_model_path(key: str, parts: list[str], model: type[BaseModel]) -> None:
    for part in parts:
        if part not in model.model_fields:
            raise CaseError(f"--set {key}: unknown path{_did_you_mean(part, model.model_fields)}")
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return
        model = annotation


def _check(path: Path, arm: str, content: Json) -> Case:
    where = f"{path} (arm {arm})"
    _refuse_auto(where, content)
    deepspeed = {key: value for key, value in content.items() if key != "bertds"}
    _check_deepspeed(where, deepspeed)
    block = parse_block(where, "bertds", BertdsConfig, content["bertds"])
    case = Case(name=path.stem, arm=arm, deepspeed=deepspeed, bertds=block, resolved=content)
    _check_together(where, case)
    return case


def _refuse_auto(where: str, value: Any, key: str = "") -> None:
    if value == "auto":
        raise CaseError(f'{where}: {key} is "auto", which nothing fills in here: give a value')
    if isinstance(value, Mapping):
        for name, nested in value.items():
            _refuse_auto(where, nested, f"{key}.{name}" if key else name)


def _check_deepspeed(where: str, deepspeed: Json) -> None:
    known = [*PASSED_ON, *Top.model_fields]
    for key, value in deepspeed.items():
        if key in REFUSED:
            raise CaseError(f"{where}: {key} may not be set: {REFUSED[key]}")
        if key not in known:
            raise CaseError(f"{where}: unknown key '{key}'{_did_you_mean(key, [*known, 'bertds'])}")
        _check_nested(where, key, value)
    fields = {key: deepspeed[key] for key in Top.model_fields if key in deepspeed}
    top = parse_block(where, "", Top, fields)
    _check_chosen(where, "optimizer", top.optimizer.type, top.optimizer.params, OPTIMIZERS)
    if top.scheduler is not None:
        _check_chosen(where, "scheduler", top.scheduler.type, top.scheduler.params, SCHEDULERS)
    if all(deepspeed.get(k, {}).get("enabled") for k in ("bf16", "fp16")):
        raise CaseError(f"{where}: bf16 and fp16 are both enabled: enable one")
    stage = deepspeed.get("zero_optimization", {}).get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise CaseError(f"{where}: zero_optimization.stage is {stage!r}, wanted 0, 1, 2 or 3")


def _check_nested(where: str, key: str, value: Any) -> None:
    nested = PASSED_ON.get(key)
    if nested is None:
        return
    if not isinstance(value, dict):
        raise CaseError(f"{where}: {key} is {value!r}, wanted a block")
    for name in value:
        if name not in nested:
            raise CaseError(f"{where}: unknown key '{key}.{name}'{_did_you_mean(name, nested)}")
    if not isinstance(value.get("enabled", False), bool):
        raise CaseError(f"{where}: {key}.enabled is {value['enabled']!r}, wanted true or false")


def _check_chosen(
    where: str, key: str, kind: str, params: Json, known: Mapping[str, type[Block]]
) -> None:
    if kind not in known:
        raise CaseError(f"{where}: {key}.type is '{kind}'{_did_you_mean(kind, known)}")
    parse_block(where, f"{key}.params", known[kind], params)


def _check_together(where: str, case: Case) -> None:
    data, model = case.bertds.data, case.bertds.model
    batch, lanes = case.train_batch_size, data.lanes
    if data.seq_len > model.max_position_embeddings:
        raise CaseError(
            f"{where}: data.seq_len is {data.seq_len}, above model.max_position_embeddings "
            f"{model.max_position_embeddings}: raise the latter or lower the former"
        )
    if lanes is not None and batch % lanes:
        raise CaseError(
            f"{where}: data.lanes is {lanes}, which does not divide train_batch_size {batch}: "
            "choose a divisor, or leave it out"
        )


def parse_block(where: str, prefix: str, model: type[AnyBlock], values: Json) -> AnyBlock:
    """`values` as a block.

    Raises:
        CaseError: The first thing wrong, with its path, value and what is wanted.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise CaseError(f"{where}: {_sentence(prefix, model, error)}") from error


def _sentence(prefix: str, model: type[BaseModel], error: ValidationError) -> str:
    # An unknown key explains the missing one that it was meant for: name it first.
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = errors[0]
    loc = [str(part) for part in first["loc"]]
    path = ".".join([*filter(None, [prefix]), *[part for part in loc if "[" not in part]])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{path}'{_did_you_mean(loc[-1], _fields_at(model, loc[:-1]))}"
    if first["type"] == "missing":
        return f"the key {path} is missing: add it"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return f"{path}: {message}" if path else message
    wanted = first["msg"].replace("Input should be", "wanted").replace("Input", "it")
    return f"{path} is {first['input']!r}, {wanted[0].lower()}{wanted[1:]}"


def _fields_at(model: type[BaseModel], loc: list[str]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(part)
        inner = _block_in(field.annotation) if field else None
        model = inner or model
    return list(model.model_fields)


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """The block that an annotation holds, if any: `tuple[TrainSet, ...]` gives TrainSet."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [_block_in(inner) for inner in get_args(annotation)]
    return next((block for block in found if block), None)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?`, or the known names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f": did you mean '{near[0]}'?"
    return f": wanted one of {', '.join(sorted(names))}" if names else ""
