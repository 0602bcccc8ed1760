"""The tables of a case's record, in Markdown: what is compared, and how far each arm came.

Every setting and fact stands in exactly one table: common to all arms, or different. The figures
are given at the end, at the best, and at equal steps, epochs, tokens and time, because arms end at
different steps and the overfitted ones past their best.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bertds.config.flatten import flatten
from bertds.report.curves import smoothing_window
from bertds.report.formatting import (
    NO_VALUE,
    count,
    date,
    decimals,
    duration,
    epochs,
    one_line,
    table,
)
from bertds.report.run_data import MEASURES, ArmRun, Measure

__all__ = ["best", "comparison", "figures", "state_of", "validation_sets"]
FIGURES = ("loss/train", "loss/valid", "acc/train", "acc/valid")
FIGURE_NAMES = ("train loss", "valid loss", "train acc", "valid acc")
END_HEADER = ("arm", "steps", "epochs", "tokens", *FIGURE_NAMES, "time", "tokens/s", "status")
END_NOTE = (
    "At the end. A training figure is the mean over the last log points, as many as the plots "
    "smooth over; a validation figure is that of the last validation; tokens/s is the median."
)


BEST_HEADER = ("arm", "valid loss", "step", "epoch", "valid acc", "step", "epoch")
STEPS_HEADER = ("arm", "epochs", *FIGURE_NAMES, "validated at steps")


def comparison(arms: Sequence[ArmRun]) -> list[str]:
    """Every resolved setting and every fact of the runs, as what differs and what is common."""
    trained = [arm for arm in arms if arm.case]
    names = [f"`{arm.name}`" for arm in trained]
    common, differing = _split([_settings(arm) for arm in trained])
    common_facts, differing_facts = _split([_facts(arm) for arm in trained])
    sections = ["## What is compared"]
    if len(trained) > 1 and not differing:
        sections.append("The arms have the same settings.")
    if differing:
        rows = [[f"`{key}`", *values] for key, values in differing.items()]
        sections.append(table(["setting", *names], rows))
    if differing_facts:
        rows = [[key, *values] for key, values in differing_facts.items()]
        sections.append(table(["run", *names], rows))
    rows = [[key, value] for key, value in common_facts.items()]
    rows += [[f"`{block}`", value] for block, value in _by_block(common).items()]
    if rows:
        sections.append(table(["common to all arms" if len(trained) > 1 else "run", ""], rows))
    return sections


def figures(arms: Sequence[ArmRun]) -> list[str]:
    """How far each arm came: at the end, at the best, by validation set, and at equal cost."""
    logged = [arm for arm in arms if arm.lines]
    sets = validation_sets(arms)
    sections = [
        "## Figures",
        END_NOTE,
        table(END_HEADER, [_end_row(arm) for arm in arms]),
        *_remarks(arms),
    ]
    if logged:
        rows = [[_name(arm), *best(arm, "loss/valid"), *best(arm, "acc/valid")] for arm in logged]
        sections += [
            "At the best validation, of the loss and of the accuracy.",
            table(BEST_HEADER, rows),
        ]
    if len(sets) > 1:
        sections += _by_set(logged, sets)
    if len(logged) > 1:
        sections += _at_equal_steps(logged) + _at_equal_cost(logged)
    return sections


def validation_sets(arms: Sequence[ArmRun]) -> list[str]:
    """The names of the validation sets that any arm logged by name; none if there is but one."""
    keys = {key for arm in arms for line in arm.lines for key in line}
    return sorted(key.removeprefix("loss/valid/") for key in keys if key.startswith("loss/valid/"))


def _settings(arm: ArmRun) -> dict[str, str]:
    """The case file's settings by path, without the title."""
    flat = flatten(arm.case.get("config", {}), expand_lists=True)
    flat.pop("bertds.title", None)
    return {
        path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for path, value in flat.items()
    }


def _facts(arm: ArmRun) -> dict[str, str]:
    """What a run's directory says beside the settings; an empty text where it says nothing."""
    resolved: dict[str, Any] = arm.case.get("resolved", {})
    batch = ("micro_batch_size", "gradient_accumulation_steps", "world_size")
    train, valid = resolved.get("train", {}), resolved.get("valid", {})
    sets = {one.get("name", ""): one for one in train.get("sets", [])}
    versions = arm.case.get("versions", {})
    facts = {
        "parameters": count(resolved.get("parameters")),
        "vocabulary": count(resolved.get("vocab_size")),
        "training data": _amounts({"": train} if train else {}),
        "of which": _amounts(sets) if len(sets) > 1 else "",
        "validation data": _amounts(valid),
        "a guess without context": _guess(resolved.get("guess_without_context") or {}),
        "steps an epoch": count(resolved.get("steps_per_epoch")),
        "steps planned": count(resolved.get("num_steps")),
        "micro-batch × accumulation × ranks": (
            " × ".join(count(resolved.get(key)) for key in batch) if resolved else ""
        ),
        "device": str(resolved.get("device", "")),
        "started": date(resolved.get("started")),
        "last written": date(arm.status.get("updated")),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }
    return {name: fact for name, fact in facts.items() if fact not in ("", NO_VALUE)}


def _guess(figures: Mapping[str, Any]) -> str:
    """What the masked tokens of the validation sets give away, nothing read around them."""
    sets = {"": figures, **figures.get("sets", {})} if figures else {}
    return "; ".join(f"{name} {_guess_of(one)}".strip() for name, one in sets.items())


def _guess_of(figures: Mapping[str, float]) -> str:
    loss, accuracy = figures["loss"], figures["accuracy"]
    return f"loss {decimals('loss/valid', loss)}, acc {decimals('acc/valid', accuracy)}"


def _split(arms: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The entries that all arms share, and the others with the value of each arm."""
    keys = dict.fromkeys(key for entries in arms for key in entries)
    values = {key: [entries.get(key, NO_VALUE) for entries in arms] for key in keys}
    common = {key: each[0] for key, each in values.items() if len(set(each)) == 1}
    return common, {key: each for key, each in values.items() if len(set(each)) > 1}


def _by_block(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings gathered by DeepSpeed's blocks, and by the blocks inside "bertds"."""
    blocks: dict[str, list[str]] = {}
    for key, value in settings.items():
        block = re.split(r"(?<!^bertds)[.\[]", key, maxsplit=1)[0]
        rest = key.removeprefix(block).removeprefix(".")
        blocks.setdefault(block, []).append(f"{rest} {value}".strip())
    return {block: ", ".join(values) for block, values in blocks.items()}


def _end_row(arm: ArmRun) -> list[str]:
    speed = arm.series("tokens_per_s").values
    speed = speed[np.isfinite(speed)]
    return [
        _name(arm),
        count(arm.reached("step")),
        epochs(arm.reached("epoch")),
        count(arm.reached("tokens")),
        *[_figure(arm, key) for key in FIGURES],
        duration(arm.reached("seconds")),
        count(np.median(speed)) if len(speed) else NO_VALUE,
        state_of(arm),
    ]


def _figure(arm: ArmRun, key: str, measure: Measure = "step", limit: float = math.inf) -> str:
    """A figure as it was at `limit`: smoothed if it is a training figure, NaN if it last was.

    A validation figure at a finite limit is on the line between two validations, since arms are
    validated at other places. An arm that never came so far has none.
    """
    series = arm.series(key)
    index = series.index_at(measure, limit)
    if index is None or (math.isfinite(limit) and not arm.reached(measure) >= limit):
        return NO_VALUE
    if math.isfinite(limit) and not key.endswith("/train"):
        return decimals(key, series.value_at(measure, limit))
    window = smoothing_window(len(series.values)) if key.endswith("/train") else 1
    last = series.values[max(0, index + 1 - window) : index + 1]
    mean = np.nanmean(last) if np.isfinite(last[-1]) else math.nan
    return decimals(key, float(mean))


def best(arm: ArmRun, key: str) -> list[str]:
    """The least loss or greatest accuracy, its step and its epoch."""
    series = arm.series(key)
    if not np.isfinite(series.values).any():
        return [NO_VALUE] * 3
    find = np.nanargmin if key.startswith("loss/") else np.nanargmax
    at = int(find(series.values))
    step, epoch = float(series.at["step"][at]), float(series.at["epoch"][at])
    return [decimals(key, float(series.values[at])), count(step), epochs(epoch)]


def _remarks(arms: Sequence[ArmRun]) -> list[str]:
    """Where the arms end, if not at one step, and what stopped those that are not done."""
    ends = {arm.name: arm.reached("step") for arm in arms if arm.lines}
    remarks = []
    if len(set(ends.values())) > 1:
        listed = ", ".join(f"`{name}` {count(end)}" for name, end in ends.items())
        remarks.append(
            f"**The arms end at different steps** ({listed}): a verdict compares them at equal "
            "steps, epochs, tokens or time, and says at which."
        )
    for arm in arms:
        state, code = arm.status.get("state"), arm.status.get("code", NO_VALUE)
        if state in ("failed", "pre-empted"):
            said = one_line(str(arm.status.get("message", ""))) or "no reason given"
            step = count(arm.status.get("step"))
            remarks.append(f"`{arm.name}` {state} at step {step} (code {code}): {said}")
    return remarks


def _by_set(arms: Sequence[ArmRun], sets: Sequence[str]) -> list[str]:
    header = ["arm"]
    header += [f"{name} {figure}" for name in sets for figure in ("loss", "best", "acc", "best")]
    keys = [f"{figure}/valid/{name}" for name in sets for figure in ("loss", "acc")]
    rows = [
        [_name(arm), *(cell for key in keys for cell in (_figure(arm, key), best(arm, key)[0]))]
        for arm in arms
    ]
    return ["By validation set, at the end and at each figure's best.", table(header, rows)]


def _at_equal_steps(arms: Sequence[ArmRun]) -> list[str]:
    """The figures of every arm at the last step that all reached."""
    sound = _sound(arms)
    limit = min(arm.reached("step") for arm in sound)
    rows = []
    for arm in arms:
        figures = [_figure(arm, key, "step", limit) for key in FIGURES]
        came = arm.reached("step") >= limit
        passed = arm.series("epoch").value_at("step", limit) if came else math.nan
        around = _around(arm, limit) if came else NO_VALUE
        rows.append([_name(arm), epochs(passed), *figures, around])
    who = "all arms" if len(sound) == len(arms) else "all arms but the failed ones"
    note = (
        f"At equal steps: step {count(limit)}, the last that {who} reached. Validation figures are on "
        "the line between the validations on either side of it."
    )
    return [note, table(STEPS_HEADER, rows)]


def _around(arm: ArmRun, limit: float) -> str:
    """The steps of the validations on either side of a step, or of the one that is at it."""
    steps = arm.series("loss/valid").at["step"]
    sides = [*steps[steps <= limit][-1:], *steps[steps >= limit][:1]]
    return ", ".join(count(step) for step in dict.fromkeys(sides)) or NO_VALUE


def _at_equal_cost(arms: Sequence[ArmRun]) -> list[str]:
    """The validation figures of every arm at equal epochs, tokens and time."""
    words = {"epoch": epochs, "tokens": count, "seconds": duration}
    units = {"epoch": " epochs", "tokens": " tokens", "seconds": ""}
    header, columns = ["arm"], []
    for measure in MEASURES[1:]:
        limit = min(arm.reached(measure) for arm in _sound(arms))
        if math.isfinite(limit):
            cost = words[measure](limit) + units[measure]
            header += [f"{cost}: valid loss", "valid acc"]
            columns += [("loss/valid", measure, limit), ("acc/valid", measure, limit)]
    if not columns:
        return []
    rows = [[_name(arm), *(_figure(arm, *column) for column in columns)] for arm in arms]
    note = "At equal epochs, tokens and time: on the line between the validations on either side."
    return [note, table(header, rows)]


def _sound(arms: Sequence[ArmRun]) -> Sequence[ArmRun]:
    """The arms whose ends count: all but the failed ones, or all if every one failed."""
    return [arm for arm in arms if not arm.failed] or arms


def _name(arm: ArmRun) -> str:
    return f"`{arm.name}` (= {arm.same_as})" if arm.same_as else f"`{arm.name}`"


def state_of(arm: ArmRun) -> str:
    """What the run does, in a word; a failed one's code too."""
    if not arm.case:
        return "not trained yet"
    state = str(arm.status.get("state", "no status"))
    return f"{state} ({arm.status.get('code', NO_VALUE)})" if state == "failed" else state


def _amounts(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Sequences (a sentence each, or a piece of a document) and tokens of each set."""
    return "; ".join(
        f"{name} {count(one.get('sequences'))} sequences, {count(one.get('tokens'))} tokens"
        for name, one in sets.items()
    ).strip()
