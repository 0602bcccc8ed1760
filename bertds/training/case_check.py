"""Check the arms of a case file, and report the mistakes of all of them together."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bertds.config.case import Case, Settings, read_case, read_content
from bertds.config.checks import check_content
from bertds.config.consistency import check_consistency
from bertds.engine.deepspeed_keys import deepspeed_problems
from bertds.errors import ConfigError, ProblemsError

ArmPath = tuple[Path, str]
"""A case file, and the name of an arm that it trains."""


def read_cases(arms: Iterable[ArmPath], settings: Settings = "") -> list[Case]:
    """Read and check arms.

    Args:
        arms: Which ones.
        settings: As for `read_case`, for all arms.

    Raises:
        ConfigError: A file, an arm or a setting is wrong; the message has all mistakes.
    """
    arms = list(arms)
    mistakes = {arm: _mistakes(*arm, settings) for arm in arms}
    if any(mistakes.values()):
        raise _error(mistakes)
    return [read_case(path, arm, settings) for path, arm in arms]


def check_cases(arms: Iterable[ArmPath], settings: Settings = "") -> list[str]:
    """Check everything about arms that can be known without data.

    Returns:
        Warnings, one for each line.

    Raises:
        ConfigError: A file, an arm or a setting is wrong; the message has all mistakes.
    """
    mistakes, warnings = {}, {}
    for path, arm in arms:
        mistakes[path, arm] = _mistakes(path, arm, settings)
        if not mistakes[path, arm]:
            findings = check_consistency(read_case(path, arm, settings).resolved, None)
            mistakes[path, arm], warnings[path, arm] = findings.errors, findings.warnings
    if any(mistakes.values()):
        raise _error(mistakes)
    return [line for _, line in _lines(warnings)]


def _mistakes(path: Path, arm: str, settings: Settings) -> list[str]:
    content = read_content(path, arm, settings)
    problems = check_content(content).problems
    wrong = {problem.key.partition(".")[0] for problem in problems}
    problems += deepspeed_problems(
        {key: value for key, value in content.items() if key not in wrong}
    )
    return [problem.text for problem in problems]


def _error(mistakes: dict[ArmPath, list[str]]) -> ConfigError:
    lines = _lines(mistakes)
    files = ", ".join(dict.fromkeys(str(path) for path, _ in lines))
    texts = [line for _, line in lines]
    if len(texts) > 1:
        return ProblemsError(files, texts)
    return ConfigError(f"{files}{' ' if texts[0].startswith('(arm ') else ': '}{texts[0]}")


def _lines(found: dict[ArmPath, list[str]]) -> list[tuple[Path, str]]:
    """Write a line for each message; one that several arms share is written once."""
    arms_of: dict[tuple[Path, str], list[str]] = {}
    for (path, arm), texts in found.items():
        for text in texts:
            arms_of.setdefault((path, text), []).append(arm)
    num_files = len({path for path, _ in arms_of})
    return [
        (path, f"{f'{path} ' if num_files > 1 else ''}{_arms(arms, len(found))}{text}")
        for (path, text), arms in arms_of.items()
    ]


def _arms(arms: Sequence[str], num_arms: int) -> str:
    return "" if 1 < len(arms) == num_arms else f"(arm {', '.join(arms)}): "
