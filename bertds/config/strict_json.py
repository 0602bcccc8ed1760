"""The JSON of case files: no duplicate keys, no NaN, no infinity, no lone surrogates."""

import json
import math
import re
from typing import Any

from bertds.errors import ConfigError

_MAX_DIGITS = 19
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell it, and UTF-8 cannot


def parse_json(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        json.JSONDecodeError: It is not JSON.
        ConfigError: It is JSON, but not allowed in a case file.
    """
    try:
        content = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_reject_constant,
            parse_float=_finite_float,
            parse_int=_short_int,
        )
        surrogate = _LONE_SURROGATE.search(json.dumps(content, ensure_ascii=False))
    except RecursionError as error:
        raise ConfigError("blocks are nested too deeply: remove some levels") from error
    if surrogate is not None:
        raise ConfigError(f"{surrogate[0]!a} is half of a character: give the whole character")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ConfigError(f"the key {key!r} occurs twice in one block: delete one")
        content[key] = value
    return content


def _reject_constant(text: str) -> Any:
    raise ConfigError(f"{text} is not allowed: give a finite number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ConfigError(f"{text[:20]} is larger than the largest float: give a smaller number")
    return number


def _short_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ConfigError(f"{text[:20]} has more than {_MAX_DIGITS} digits: give a smaller number")
    return int(text)
