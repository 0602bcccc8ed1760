"""Error messages about a setting: its key, its value, what is expected, what to do."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bertds.errors import ConfigError, ProblemsError

AnyBlock = TypeVar("AnyBlock", bound=BaseModel)

# The expected value, by pydantic's error type.
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a block",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "at most 9e18",
    "int_type": "a whole number",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "model_type": "a block",
    "multiple_of": "a whole number",
    "string_pattern_mismatch": "a plain name (letters, digits, _.+-)",
    "string_too_short": "a string that is not empty",
    "string_type": "a string",
    "too_long": "at most {max_length} of them",
    "too_short": "at least {min_length} of them",
    "tuple_type": "a list",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake in a case file."""

    key: str
    """Path of the key, such as `optimizer.params.lr`; empty for the whole file."""
    text: str
    """The message, which names key and value."""


def problems_error(where: str, problems: Sequence[Problem]) -> ConfigError:
    """Build the error about one or several problems of a file."""
    texts = [problem.text for problem in problems]
    return ConfigError(f"{where}: {texts[0]}") if len(texts) == 1 else ProblemsError(where, texts)


def problems_of(prefix: str, model: type[BaseModel], error: ValidationError) -> list[Problem]:
    """Describe the errors of a block; unknown keys first, which may be misspelled missing ones."""
    errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    return [_problem(prefix, model, each) for each in errors]


def _problem(prefix: str, model: type[BaseModel], error: ErrorDetails) -> Problem:
    location = [str(part) for part in error["loc"] if part != "[key]"]
    path = ".".join([prefix, *location] if prefix else location)
    return Problem(path, _text(path, location, model, error))


def _text(path: str, location: list[str], model: type[BaseModel], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown key {path!r}{did_you_mean(location[-1], _keys_at(model, location[:-1]))}"
    path = path if path.isprintable() else repr(path)  # a name in the file may hold a line break
    context = error.get("ctx", {})
    if error["type"] == "missing":
        return f"the key {path} is missing: add it"
    if error["type"] == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    if error["type"] not in _EXPECTED:
        return f"{path} is {shown(error['input'])}: {error['msg']}"
    expected = _EXPECTED[error["type"]].format(**context).replace("'", '"')
    return f"{path} is {shown(error['input'])}, expected {expected}"


def shown(value: object) -> str:
    """Format a value as in a case file, cut to one short line."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:77]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Format a hint: the most similar known name, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f": did you mean '{near[0]}'?"
    return f": expected one of {', '.join(sorted(names))}" if names else ""


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    """List the known keys of the block at a location."""
    for part in location:
        field = model.model_fields.get(part)
        model = (field and _block_in(field.annotation)) or model
    return list(model.model_fields)


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation, if any: `tuple[TrainSet, ...]` gives TrainSet."""
    inner = (_block_in(part) for part in get_args(annotation))
    return block_of(annotation) or next((block for block in inner if block), None)


def block_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation is, or may be (`Chosen | None`), if any."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    blocks = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return next(blocks, None)
