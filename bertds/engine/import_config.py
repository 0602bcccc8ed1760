"""Convert the DeepSpeed configuration of another program to a case file that passes all checks."""

import re
from pathlib import Path

import hjson

from bertds.config.checks import check_content
from bertds.config.consistency import check_consistency
from bertds.config.foreign_config import Conversion, convert, fill_defaults
from bertds.config.messages import Problem, problems_error
from bertds.config.overrides import Json
from bertds.engine.deepspeed_keys import deepspeed_problems
from bertds.errors import ConfigError

_MAX_BYTES = 4 << 20


def import_config(path: Path) -> Conversion:
    """Convert a file.

    Raises:
        ConfigError: The file is not a DeepSpeed configuration, or no case file can be made of it.
    """
    conversion = Conversion.of(_read(path))
    convert(conversion)
    problems = _problems(conversion.content)
    while problems and _drop_wrong_keys(conversion, problems):
        fill_defaults(conversion)
        problems = _problems(conversion.content)
    if problems:
        raise problems_error(f"{path} cannot be converted", problems)
    return conversion


def _drop_wrong_keys(conversion: Conversion, problems: list[Problem]) -> bool:
    """Drop the keys that a check rejects; False if there is none of them."""
    has_dropped = False
    for problem in problems:
        key = re.sub(r"(\.\d+)+$", "", problem.key)  # the list of a wrong element
        if conversion.get(key) is not None:
            conversion.drop(key, _reason(problem))
            has_dropped = True
    return has_dropped


def _reason(problem: Problem) -> str:
    """Shorten a message that follows the key and its value."""
    text = problem.text.removeprefix(f"{problem.key} may not be set: ").removesuffix(", delete it")
    _, expected, values = text.partition(", expected ")
    return f"expected {values}" if expected else text


def _read(path: Path) -> Json:
    """Read a file as DeepSpeed does, which allows comments; a template may hold names as values."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_BYTES} bytes: it is not a configuration")
    try:
        content = hjson.loads(path.read_text(encoding="utf-8"), object_pairs_hook=dict)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} is not a DeepSpeed configuration: expected a block of keys")
    if "bertds" in content:
        raise ConfigError(f"{path} is a case file already: check it with python -m bertds check")
    return content


def _problems(content: Json) -> list[Problem]:
    problems = check_content(content).problems or deepspeed_problems(content)
    if problems:
        return problems
    return [Problem("", text) for text in check_consistency(content, None).errors]
