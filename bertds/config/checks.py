"""Check the content of a case file after its patches, and find all of its mistakes at once.

A wrong part is reported, then replaced by its default or a placeholder, so that it hides no mistake
elsewhere. What follows from the replacement is not reported.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bertds.config.combinations import invalid_combinations
from bertds.config.deepspeed_schema import CaseFile
from bertds.config.messages import AnyBlock, Problem, did_you_mean, problems_of, shown
from bertds.config.optimizer_schema import OPTIMIZERS, SCHEDULERS, Chosen
from bertds.config.overrides import Json
from bertds.config.places import places_near, places_of
from bertds.config.stages import invalid_changes, malformed_stages, stage_contents
from bertds.config.unsupported_keys import remedy

# Stands in for required keys that are missing or wrong, so that the others can be checked together.
_PLACEHOLDERS: Json = {
    "train_batch_size": 1,
    "gradient_clipping": 0,
    "optimizer": {"type": "AdamW", "params": {"lr": 1.0, "weight_decay": 0}},
    "bertds": {
        "model": {
            "hidden_size": 1,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 1,
        },
        "data": {"train": [{"name": "placeholder"}]},
        "run": {"max_steps": 1},
    },
}
_MAX_ROUNDS = 20
_WITH_AUTO = ("bertds.run.resume", "bertds.run.attention")


@dataclass(frozen=True, slots=True)
class CheckedContent:
    """The content of a case file, and its mistakes."""

    file: CaseFile | None
    """None if there is a mistake; that of the first stage if there are several."""
    problems: list[Problem]
    stages: dict[str, CaseFile] = field(default_factory=dict)
    """The file as each stage patches it, by the name of the stage; empty without stages."""


def check_content(content: Json) -> CheckedContent:
    """Check everything that the file itself tells, in each of its stages."""
    if problems := malformed_stages(content):
        return CheckedContent(None, problems)
    checked = {name: _check_stage(each) for name, each in stage_contents(content).items()}
    if "" in checked:
        return checked[""]
    files = {name: each.file for name, each in checked.items() if each.file is not None}
    problems = list(_problems_of_stages(checked))
    if not problems:
        problems = list(invalid_changes(files))
    first = next(iter(files.values()), None)
    return CheckedContent(None if problems else first, problems, files)


def _problems_of_stages(checked: Mapping[str, CheckedContent]) -> Iterator[Problem]:
    """The problems of all stages; one that not all have names its stages."""
    stages_of: dict[Problem, list[str]] = {}
    for name, each in checked.items():
        for problem in each.problems:
            stages_of.setdefault(problem, []).append(name)
    for problem, names in stages_of.items():
        where = "" if len(names) == len(checked) else f"stage {', '.join(names)}: "
        yield Problem(problem.key, f"{where}{problem.text}")


def _check_stage(content: Json) -> CheckedContent:
    values = copy.deepcopy(content)
    problems = [*_unsupported(content), *_auto(content)]
    for problem in problems:
        _delete(values, tuple(problem.key.split(".")))
    file = _parse("", CaseFile, values, problems)
    if file is not None:
        optimizer = _parse_chosen("optimizer", file.optimizer, OPTIMIZERS, problems)
        scheduler = file.scheduler and _parse_chosen(
            "scheduler", file.scheduler, SCHEDULERS, problems
        )
        replaced = {_replaced_part(problem) for problem in problems} - {""}
        for text in invalid_combinations(file, optimizer, scheduler or None):
            if not any(part in text for part in replaced):
                problems.append(Problem("", text))
    return CheckedContent(None if problems else file, problems)


def _replaced_part(problem: Problem) -> str:
    """The block, or the key at the top level, that has another value because of a problem."""
    block, _, name = problem.key.removeprefix("bertds.").rpartition(".")
    if problem.text.startswith("unknown key"):
        meant = re.search(r"did you mean '([^']*)'", problem.text)
        return (block or meant[1]) if meant else ""
    return "" if remedy(problem.key) is not None else block or name


def _unsupported(content: Mapping[str, Any], path: str = "") -> Iterator[Problem]:
    for name, value in content.items():
        key = f"{path}{name}"
        if (advice := remedy(key)) is not None:
            yield Problem(key, f"{key} may not be set: {advice}")
        elif isinstance(value, Mapping):
            yield from _unsupported(value, f"{key}.")


def _auto(value: Any, key: str = "") -> Iterator[Problem]:
    is_unsupported = remedy(key) is not None
    if value == "auto" and key not in _WITH_AUTO and not is_unsupported:
        yield Problem(key, f'{key} is "auto", which is not supported: give a value')
    elif isinstance(value, Mapping) and not is_unsupported:
        for name, nested in value.items():
            yield from _auto(nested, f"{key}.{name}" if key else name)


def _parse_chosen(
    key: str, chosen: Chosen, known: Mapping[str, type[AnyBlock]], problems: list[Problem]
) -> AnyBlock | None:
    """Validate the parameters of an optimizer or scheduler by its type."""
    if any(key in (problem.key, _replaced_part(problem)) for problem in problems):
        return None
    if chosen.type not in known:
        near = did_you_mean(chosen.type, known)
        problems.append(Problem(f"{key}.type", f"{key}.type is {shown(chosen.type)}{near}"))
        return None
    return _parse(f"{key}.params", known[chosen.type], copy.deepcopy(chosen.params), problems)


def _parse(
    prefix: str, model: type[AnyBlock], values: Json, problems: list[Problem]
) -> AnyBlock | None:
    """Validate a block; replaces wrong parts of `values`, and adds to `problems`.

    Returns:
        The block, with replacements; None if a wrong part cannot be replaced.
    """
    for _ in range(_MAX_ROUNDS):
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for problem in problems_of(prefix, model, error):
                if not _follows(problem, problems):
                    problems.append(_with_place(problem))
            replaced = [_replace(values, prefix, each) for each in error.errors()]
            if not any(replaced):
                return None
    return None


def _with_place(problem: Problem) -> Problem:
    """Name the block where an unknown key belongs, if there is one."""
    if not problem.text.startswith("unknown key"):
        return problem
    name = problem.key.rpartition(".")[2]
    has_hint = "did you mean" in problem.text
    found = places_of(name) or ([] if has_hint else places_near(name))
    places = [place for place in found if place != problem.key]
    if not places:
        return problem
    return Problem(
        problem.key, f"unknown key {problem.key!r}: did you mean {' or '.join(map(repr, places))}?"
    )


def _follows(problem: Problem, known: list[Problem]) -> bool:
    """Whether a problem is known, or comes from a known one.

    It may come from the replacement of a part of its block, or be a missing key that is misspelled.
    """
    block, _, name = problem.key.rpartition(".")
    return any(
        each.key == problem.key
        or each.key.startswith(f"{problem.key}.")
        or (each.key.rpartition(".")[0] == block and each.text.endswith(f"did you mean '{name}'?"))
        for each in known
    )


def _replace(values: Json, prefix: str, error: ErrorDetails) -> bool:
    location = tuple(part for part in error["loc"] if part != "[key]")
    if error["type"] == "missing":
        return not prefix and _fill(values, location)
    return any(_delete(values, location[:end]) for end in range(len(location), 0, -1))


def _fill(values: Json, location: tuple[int | str, ...]) -> bool:
    """Put the placeholder at a location."""
    source: Any = _PLACEHOLDERS
    for part in location:
        if not isinstance(source, dict) or part not in source:
            return False
        source = source[part]
    block = _block_at(values, location[:-1])
    if block is None:
        return False
    block[location[-1]] = copy.deepcopy(source)
    return True


def _delete(values: Json, location: tuple[int | str, ...]) -> bool:
    block = _block_at(values, location[:-1])
    if block is None or location[-1] not in block:
        return False
    del block[location[-1]]
    return True


def _block_at(values: Any, location: tuple[int | str, ...]) -> dict[int | str, Any] | None:
    for part in location:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values if isinstance(values, dict) else None
