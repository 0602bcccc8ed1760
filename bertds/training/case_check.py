"""Check the arms of a case file, and report the mistakes of all of them together."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bertds.config.case import Case, Settings
from bertds.config.consistency import Findings, check_consistency
from bertds.config.stages import (
    follows_whole_run,
    malformed_stages,
    stage_contents,
    with_length,
)
from bertds.engine.deepspeed_keys import deepspeed_problems
from bertds.errors import ConfigError, ProblemsError
from bertds.runs.case_file import check_case, read_case

ArmPath = tuple[Path, str]
"""A case file, and the name of an arm that it trains."""


def read_cases(
    arms: Iterable[ArmPath], settings: Settings = "", out: Path | None = None
) -> list[Case]:
    """Read and check arms.

    Args:
        arms: Which ones.
        settings: As for `read_case`, for all arms.
        out: Directory of the runs, if they may exist.

    Raises:
        ConfigError: A file, an arm or a setting is wrong; the message has all mistakes.
    """
    arms = list(arms)
    mistakes = {arm: _mistakes(*arm, settings, out) for arm in arms}
    if any(mistakes.values()):
        raise _error(mistakes)
    return [read_case(path, arm, settings, out) for path, arm in arms]


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
            findings = _findings(read_case(path, arm, settings))
            mistakes[path, arm], warnings[path, arm] = findings.errors, findings.warnings
    if any(mistakes.values()):
        raise _error(mistakes)
    return _lines(warnings)


def _mistakes(path: Path, arm: str, settings: Settings, out: Path | None = None) -> list[str]:
    content, problems = check_case(path, arm, settings, out)
    wrong = {problem.key.partition(".")[0] for problem in problems}
    stages = {"": content} if malformed_stages(content) else stage_contents(content)
    for stage in stages.values():
        problems += deepspeed_problems(
            {key: value for key, value in stage.items() if key not in wrong}
        )
    return list(dict.fromkeys(problem.text for problem in problems))


def _findings(case: Case) -> Findings:
    """What contradicts what, in each stage; a schedule over all stages is as long as they are."""
    if not case.stages:
        return check_consistency(case.resolved, None)
    limits = [stage.bertds.run for stage in case.stages]
    is_known = all(run.num_epochs is None and run.max_tokens is None for run in limits)
    total = sum(run.max_steps or 0 for run in limits) if is_known else None
    findings = Findings()
    for stage in case.stages:
        content = stage.resolved
        if follows_whole_run(case.resolved, stage.stage):
            without = {key: value for key, value in content.items() if key != "scheduler"}
            content = without if total is None else with_length(content, total)
        found = check_consistency(content, None)
        findings.errors.extend(f"stage {stage.stage}: {text}" for text in found.errors)
        findings.warnings.extend(f"stage {stage.stage}: {text}" for text in found.warnings)
    return findings


def _error(mistakes: dict[ArmPath, list[str]]) -> ConfigError:
    lines = _lines(mistakes)
    files = ", ".join(dict.fromkeys(str(path) for path, arm in mistakes if mistakes[path, arm]))
    if len(lines) > 1:
        return ProblemsError(files, lines)
    if lines[0].startswith(f"{files} (arm "):
        return ConfigError(lines[0])
    return ConfigError(f"{files}{' ' if lines[0].startswith('(arm ') else ': '}{lines[0]}")


def _lines(found: dict[ArmPath, list[str]]) -> list[str]:
    """Write a line for each message; one that several arms share is written once."""
    arms_of: dict[str, list[ArmPath]] = {}
    for arm, texts in found.items():
        for text in texts:
            arms_of.setdefault(text, []).append(arm)
    num_files = len({path for path, _ in found})
    return [
        text if 1 < len(arms) == len(found) else f"{_where(arms, num_files)}: {text}"
        for text, arms in arms_of.items()
    ]


def _where(arms: Sequence[ArmPath], num_files: int) -> str:
    """Name arms, with their files if several are checked."""
    names: dict[Path, list[str]] = {}
    for path, arm in arms:
        names.setdefault(path, []).append(arm)
    return ", ".join(
        f"{f'{path} ' if num_files > 1 else ''}(arm {', '.join(names[path])})" for path in names
    )
