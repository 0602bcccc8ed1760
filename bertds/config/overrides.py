"""Changes to a case file: the merge patch of an arm (RFC 7396), then `--set`."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel

from bertds.config.deepspeed_schema import CaseFile
from bertds.config.messages import block_of, did_you_mean
from bertds.config.places import places_near, places_of
from bertds.config.schema import BertdsConfig
from bertds.config.strict_json import parse_json
from bertds.config.unsupported_keys import remedy
from bertds.errors import ConfigError

Json = dict[str, Any]

# A quoted string, in which brackets and commas have no meaning, or one character.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|.', re.DOTALL)


def merge_patch(content: Any, patch: Any) -> Any:
    """Apply a patch (RFC 7396): merge blocks, delete on `null`, replace anything else."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(content) if isinstance(content, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def patch_arm(content: Json, patch: Json) -> Json:
    """Apply a patch; a new `type` of optimizer or scheduler replaces its `params`."""
    merged: Json = merge_patch(content, patch)
    for block in ("optimizer", "scheduler"):
        old, new = content.get(block), patch.get(block)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            continue
        if new.get("type", old.get("type")) != old.get("type"):
            merged[block]["params"] = merge_patch({}, new.get("params", {}))
    return merged


def parse_settings(text: str) -> list[tuple[str, Any]]:
    """Parse the text of `--set` into (path, value) pairs.

    Commas in brackets and quotes do not separate settings. A value is JSON, otherwise a string.

    Raises:
        ConfigError: A setting without `=`, an open bracket or quote, a number out of range, or
            bytes that are not UTF-8.
    """
    try:  # Python keeps bytes that do not fit the locale as surrogates
        text = text.encode(errors="surrogateescape").decode()
    except UnicodeError as error:
        raise ConfigError(f"--set is {text!r}, which is not UTF-8: write it in UTF-8") from error
    pairs = []
    for setting in split(text, ","):
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {setting.strip()!r} is not path=value, such as run.seed=1")
        try:
            pairs.append((key, parse_value(value)))
        except ConfigError as error:
            raise ConfigError(f"--set {key}: {error}") from error
    return pairs


def parse_value(text: str) -> Any:
    """A value of a setting: JSON, otherwise the text itself.

    Raises:
        ConfigError: A number is out of range.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError:
        return text


def split(text: str, separator: str) -> list[str]:
    """Split a text at a character outside of brackets and quotes; empty parts are left out.

    Raises:
        ConfigError: A bracket or a quote is open.
    """
    tokens = _TOKEN.findall(text)
    parts, depth = [""], 0
    for token in tokens:
        depth = max(0, depth + (token in "[{") - (token in "]}"))
        if token == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    if depth or '"' in tokens:
        raise ConfigError(f"--set {text!r} has an open bracket or quote: close it")
    return [part for part in parts if part.strip()]


def apply_setting(content: Json, key: str, value: Any) -> None:
    """Apply one setting of `--set` in place; `null` deletes.

    The prefix `bertds.` of a path may be omitted.

    Raises:
        ConfigError: A case file has no such path.
    """
    parts = key.split(".")
    if parts[0] in BertdsConfig.model_fields:
        parts = ["bertds", *parts]
    if not _is_unsupported(parts):  # the check of the whole file has a message for these
        _check_path(key, parts)
    block = content
    for part in parts[:-1]:
        if value is None and part not in block:
            return
        block = block.setdefault(part, {})
        if not isinstance(block, dict):
            raise ConfigError(f"--set {key}: {part!r} is not a block: set it as a whole")
    if value is None:
        block.pop(parts[-1], None)
    else:
        block[parts[-1]] = value


def _is_unsupported(parts: list[str]) -> bool:
    paths = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(remedy(path) is not None for path in paths)


def _check_path(key: str, parts: list[str]) -> None:
    """Reject an unknown path; the check of the whole file covers the value."""
    if parts[0] not in CaseFile.model_fields:
        known = [*CaseFile.model_fields, *BertdsConfig.model_fields]
        raise ConfigError(f"--set {key}: unknown path{_hint(parts[0], known)}")
    model: type[BaseModel] | None = CaseFile
    for part in parts:
        if model is None:
            return
        if part not in model.model_fields:
            raise ConfigError(f"--set {key}: unknown path{_hint(part, model.model_fields)}")
        model = block_of(model.model_fields[part].annotation)


def _hint(name: str, known: Iterable[str]) -> str:
    """Name the paths of a key that belongs elsewhere, otherwise the nearest known key."""
    if name == "arms":
        return ": an arm is chosen with --arm, and changed in the file"
    hint = did_you_mean(name, known)
    places = places_of(name) or ([] if "did you mean" in hint else places_near(name))
    names = [repr(place.removeprefix("bertds.")) for place in places]
    return f": did you mean {' or '.join(names)}?" if names else hint


def settings_patch(settings: Mapping[str, Any]) -> Json:
    """Convert settings of a Python program to a patch of the file, as an arm is.

    Args:
        settings: Values by path, such as `{"run.max_steps": 100}`, or blocks within blocks, such
            as `{"run": {"max_steps": 100}}`. None deletes. The prefix `bertds.` may be omitted.

    Raises:
        ConfigError: A case file has no such path, or a value is not one of JSON.
    """
    patch: Json = {}
    for key, value in settings.items():
        if not isinstance(key, str):
            raise ConfigError(f"settings: the key {key!r} is not a string, such as 'run.seed'")
        parts = key.split(".")
        parts = ["bertds", *parts] if parts[0] in BertdsConfig.model_fields else parts
        if not _is_unsupported(parts):
            _check_path(key, parts)
        for part in reversed(parts):
            value = {part: value}
        patch = join_patches(patch, value)
    try:
        return cast(Json, parse_json(json.dumps(patch, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings: {error}: give values as in JSON") from error


def join_patches(patch: Any, other: Any) -> Any:
    """Join two patches; both keep their None, which deletes when the patch is applied."""
    if not isinstance(patch, dict) or not isinstance(other, dict):
        return other
    return {**patch, **{key: join_patches(patch.get(key), value) for key, value in other.items()}}
