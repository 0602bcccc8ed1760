"""JSON as a case file may hold it: no key twice in a block, no NaN, no infinity."""

import json
import math
from typing import Any

from bertds.errors import ConfigError

_MOST_DIGITS = 19


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: It is not JSON.
        ConfigError: It is, but no setting can be meant.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_block,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError as error:
        raise ConfigError("its blocks are nested too deeply: no setting needs that") from error


def _block(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ConfigError(f"the key {key!r} stands twice in one block: delete one")
        content[key] = value
    return content


def _refuse_constant(text: str) -> Any:
    raise ConfigError(f"{text} is not a number that can be used: give a finite one")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ConfigError(f"{text[:20]} is larger than any number: give a finite one")
    return number


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ConfigError(f"{text[:20]} has more than {_MOST_DIGITS} digits: give a smaller number")
    return int(text)
