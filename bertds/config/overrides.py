"""Changes to a case file: an arm's merge patch (RFC 7396), then `--set`."""

import json
import re
from typing import Any

from pydantic import BaseModel

from bertds.config.deepspeed_schema import CaseFile
from bertds.config.messages import block_of, did_you_mean
from bertds.config.schema import BertdsConfig
from bertds.config.strict_json import parse_json
from bertds.config.unsupported_keys import REFUSED
from bertds.errors import ConfigError

Json = dict[str, Any]


# A quoted text, in which brackets and commas mean nothing, or one letter.
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|.', re.DOTALL)


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


def patch_arm(content: Json, patch: Json) -> Json:
    """RFC 7396; but a changed `type` replaces the `params` of optimizer and scheduler."""
    merged: Json = merge_patch(content, patch)
    for block in ("optimizer", "scheduler"):
        old, new = content.get(block), patch.get(block)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            continue
        if new.get("type", old.get("type")) != old.get("type"):
            merged[block]["params"] = merge_patch({}, new.get("params", {}))
    return merged


def parse_settings(text: str) -> list[tuple[str, Any]]:
    """The (path, value) pairs of `--set`; commas in brackets and quotes do not split.

    A value is JSON, else a plain text.

    Raises:
        ConfigError: A part without `=`, an open bracket or quote, or a number that cannot be used.
    """
    pairs = []
    for part in _split(text):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {part.strip()!r} is not path=value, such as run.seed=1")
        pairs.append((key, _json_or_text(key, value)))
    return pairs


def _split(text: str) -> list[str]:
    pieces = _PIECE.findall(text)
    parts, depth = [""], 0
    for piece in pieces:
        depth = max(0, depth + (piece in "[{") - (piece in "]}"))
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    if depth or '"' in pieces:
        raise ConfigError(f"--set {text!r} leaves a bracket or a quote open: close it")
    return [part for part in parts if part.strip()]


def _json_or_text(key: str, value: str) -> Any:
    try:
        return parse_json(value)
    except json.JSONDecodeError:
        return value
    except ConfigError as error:
        raise ConfigError(f"--set {key}: {error}") from error


def apply_setting(content: Json, key: str, value: Any) -> None:
    """One `--set`, in place; `null` deletes.

    A path that starts with a key of our block may leave `bertds.` out.

    Raises:
        ConfigError: No case file has such a path.
    """
    parts = key.split(".")
    if parts[0] in BertdsConfig.model_fields:
        parts = ["bertds", *parts]
    if parts[0] not in REFUSED:  # they are refused with the whole file, each with its own reason
        _check_path(key, parts)
    block = content
    for part in parts[:-1]:
        if value is None and part not in block:
            return
        block = block.setdefault(part, {})
        if not isinstance(block, dict):
            raise ConfigError(f"--set {key}: {part!r} is not a block, so nothing can be set in it")
    if value is None:
        block.pop(parts[-1], None)
    else:
        block[parts[-1]] = value


def _check_path(key: str, parts: list[str]) -> None:
    """Refuse a path that no case file has; what stands in it is checked with the whole file."""
    if parts[0] not in CaseFile.model_fields:
        known = [*CaseFile.model_fields, *BertdsConfig.model_fields]
        raise ConfigError(f"--set {key}: unknown path{did_you_mean(parts[0], known)}")
    model: type[BaseModel] | None = CaseFile
    for part in parts:
        if model is None:
            return
        if part not in model.model_fields:
            raise ConfigError(f"--set {key}: unknown path{did_you_mean(part, model.model_fields)}")
        model = block_of(model.model_fields[part].annotation)
