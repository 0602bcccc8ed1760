"""A wrong setting in one sentence: the key, its value, what is wanted, what to do."""

import difflib
import json
from collections.abc import Iterable
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from bertds.errors import ConfigError

AnyBlock = TypeVar("AnyBlock", bound=BaseModel)


# What is wanted, by pydantic's name of the fault.
_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a block",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "model_type": "a block",
    "multiple_of": "a whole number",
    "string_too_short": "a text",
    "string_pattern_mismatch": "a plain name (letters, digits, _.+-)",
    "string_type": "a text",
    "too_long": "at most {max_length} of them",
    "too_short": "at least {min_length} of them",
    "tuple_type": "a list",
}


def parse_block(where: str, prefix: str, model: type[AnyBlock], values: object) -> AnyBlock:
    """Read a block of settings.

    Args:
        where: What a complaint begins with: the file and the arm.
        prefix: Path of the block in the file, such as `optimizer.params`; empty for the whole.
        model: The block's keys.
        values: What the file says.

    Raises:
        ConfigError: The first thing wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(prefix, model, error)}") from error


def _sentence(prefix: str, model: type[BaseModel], error: ValidationError) -> str:
    # An unknown key explains the missing one that it was meant for: name it first.
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    loc = [str(part) for part in first["loc"] if part != "[key]"]
    path = ".".join([*filter(None, [prefix]), *loc])
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key {path!r}{did_you_mean(loc[-1], _keys_at(model, loc[:-1]))}"
    path = path if path.isprintable() else repr(path)  # a name in a file may hold a line break
    match first["type"]:
        case "missing":
            return f"the key {path} is missing: add it"
        case "value_error":
            return f"{path}: {context['error']}" if path else str(context["error"])
    wanted = _WANTED.get(first["type"], "something else").format(**context)
    return f"{path} is {shown(first['input'])}, wanted {wanted.replace(chr(39), chr(34))}"


def shown(value: object) -> str:
    """A value as a case file writes it, cut to one short line."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?`, or the known names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f": did you mean '{near[0]}'?"
    return f": wanted one of {', '.join(sorted(names))}" if names else ""


def _keys_at(model: type[BaseModel], loc: list[str]) -> list[str]:
    for part in loc:
        field = model.model_fields.get(part)
        model = (field and _block_in(field.annotation)) or model
    return list(model.model_fields)


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """The block that an annotation holds, if any: `tuple[TrainSet, ...]` gives TrainSet."""
    found = block_of(annotation)
    inner = (_block_in(part) for part in get_args(annotation))
    return found or next((block for block in inner if block), None)


def block_of(annotation: Any) -> type[BaseModel] | None:
    """The block that an annotation is, or may be (`Chosen | None`), if any."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    blocks = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next(blocks, None)
