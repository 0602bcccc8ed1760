"""The Markdown tables of a case's report: the settings of its arms, and their results.

Each setting is in exactly one table: common to all arms, or different. Results are given at the
end, at the best validation, and at equal steps, epochs, tokens and time: arms end at different
steps, and overfitted arms end past their best.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bertds.config.flatten import flatten
from bertds.report.context_tables import context_tables
from bertds.report.curves import smoothing_window
from bertds.report.downstream_tables import downstream_tables
from bertds.report.formatting import (
    NO_VALUE,
    count,
    date,
    duration,
    epochs,
    metric,
    one_line,
    table,
)
from bertds.report.run_data import MEASURES, ArmRun, Measure, validation_sets

__all__ = ["best_cells", "result_tables", "settings_tables", "state_of"]
METRICS = ("loss/train", "loss/valid", "acc/train", "acc/valid")
METRIC_NAMES = ("train loss", "valid loss", "train acc", "valid acc")
END_HEADER = ("arm", "steps", "epochs", "tokens", *METRIC_NAMES, "time", "tokens/s", "status")
BEST_HEADER = ("arm", "valid loss", "step", "epoch", "valid acc", "step", "epoch")
STEPS_HEADER = ("arm", "epochs", *METRIC_NAMES, "validated at steps")
END_NOTE = (
    "Final values. Training metrics are means over the smoothing window of the plots; validation "
    "metrics are from the last validation; tokens/s is the median. Tokens exclude padding."
)


def settings_tables(arms: Sequence[ArmRun]) -> list[str]:
    """Heading and tables of the settings and metadata of the runs: different ones, common ones."""
    trained = [arm for arm in arms if arm.case]
    names = [f"`{arm.name}`" for arm in trained]
    common, different = _split([_settings(arm) for arm in trained])
    common_metadata, different_metadata = _split([_metadata(arm) for arm in trained])
    blocks = ["## Settings"]
    if len(trained) > 1 and not different:
        blocks.append("The arms have the same settings.")
    if different:
        rows = [[f"`{key}`", *values] for key, values in different.items()]
        blocks.append(table(["setting", *names], rows))
    if different_metadata:
        rows = [[key, *values] for key, values in different_metadata.items()]
        blocks.append(table(["run", *names], rows))
    rows = [[key, value] for key, value in common_metadata.items()]
    rows += [[f"`{block}`", value] for block, value in _by_block(common).items()]
    if rows:
        blocks.append(table(["common to all arms" if len(trained) > 1 else "run", ""], rows))
    return blocks


def _settings(arm: ArmRun) -> dict[str, str]:
    """The settings of the case file by path, without the title."""
    flat = flatten(arm.case.get("config", {}), expand_lists=True)
    flat.pop("bertds.title", None)
    return {
        path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for path, value in flat.items()
    }


def _metadata(arm: ArmRun) -> dict[str, str]:
    """What the run directory records in addition to the settings, without unknown values."""
    resolved: dict[str, Any] = arm.case.get("resolved", {})
    batch = ("micro_batch_size", "gradient_accumulation_steps", "world_size")
    train = resolved.get("train", {})
    train_sets = {data.get("name", ""): data for data in train.get("sets", [])}
    versions = arm.case.get("versions", {})
    metadata = {
        "parameters": count(resolved.get("parameters")),
        "vocabulary": count(resolved.get("vocab_size")),
        "training data": _data_sizes({"": train} if train else {}),
        "training data by set": _data_sizes(train_sets) if len(train_sets) > 1 else "",
        "validation data": _data_sizes(resolved.get("valid", {})),
        "unigram baseline": _baselines(arm, "unigram"),
        "neighbour baseline": _baselines(arm, "neighbour"),
        "highest learning rate": _highest_rate(arm),
        "steps per epoch": count(resolved.get("steps_per_epoch")),
        "planned steps": count(resolved.get("num_steps")),
        "stages": "; ".join(
            f"{stage['name']} up to step {count(stage['last_step'])}"
            for stage in resolved.get("stages", [])
        ),
        "micro-batch × accumulation × ranks": (
            " × ".join(count(resolved.get(key)) for key in batch) if resolved else ""
        ),
        "device": str(resolved.get("device", "")),
        "started": date(resolved.get("started")),
        "last status update": date(arm.status.get("updated")),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }
    return {name: value for name, value in metadata.items() if value not in ("", NO_VALUE)}


def _baselines(arm: ArmRun, name: str) -> str:
    """Loss and accuracy of a baseline, on all validation sets and, if there are several, on each."""
    content = arm.case.get("resolved", {}).get("guess_without_context") or {}
    by_set = {valid_set: arm.baselines(valid_set) for valid_set in ["", *content.get("sets", {})]}
    return "; ".join(
        f"{valid_set} loss {metric('loss/valid', values[name]['loss'])}, "
        f"acc {metric('acc/valid', values[name]['accuracy'])}".strip()
        for valid_set, values in by_set.items()
        if name in values
    )


def _highest_rate(arm: ArmRun) -> str:
    """The highest rate in the metrics: what was used, whatever the settings say."""
    rates = arm.series("lr").values
    rates = rates[np.isfinite(rates)]
    return f"{rates.max():.4g}" if len(rates) else ""


def _data_sizes(sets: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{name} {count(data.get('sequences'))} sequences, {count(data.get('tokens'))} tokens"
        for name, data in sets.items()
    ).strip()


def _split(arms: Sequence[Mapping[str, str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The entries that all arms share, and the others with the value of each arm."""
    keys = dict.fromkeys(key for entries in arms for key in entries)
    values = {key: [entries.get(key, NO_VALUE) for entries in arms] for key in keys}
    common = {key: each[0] for key, each in values.items() if len(set(each)) == 1}
    return common, {key: each for key, each in values.items() if len(set(each)) > 1}


def _by_block(settings: Mapping[str, str]) -> dict[str, str]:
    """Join the settings of each top-level block, and of each block inside "bertds"."""
    blocks: dict[str, list[str]] = {}
    for key, value in settings.items():
        block = re.split(r"(?<!^bertds)[.\[]", key, maxsplit=1)[0]
        rest = key.removeprefix(block).removeprefix(".")
        blocks.setdefault(block, []).append(f"{rest} {value}".strip())
    return {block: ", ".join(values) for block, values in blocks.items()}


def result_tables(arms: Sequence[ArmRun]) -> list[str]:
    """Heading, notes and tables of the metrics: final, best, by validation set, at equal cost."""
    logged = [arm for arm in arms if arm.lines]
    sets = validation_sets(arms)
    rows = [_end_row(arm) for arm in arms]
    blocks = ["## Results", END_NOTE, table(END_HEADER, rows), *_remarks(arms)]
    if logged:
        rows = [
            [_label(arm), *best_cells(arm, "loss/valid"), *best_cells(arm, "acc/valid")]
            for arm in logged
        ]
        blocks += ["Best validation loss and best validation accuracy.", table(BEST_HEADER, rows)]
    if len(sets) > 1:
        blocks += _by_set(logged, sets)
    blocks += context_tables(arms)
    if len(logged) > 1:
        blocks += _at_equal_steps(logged) + _at_equal_cost(logged)
    return blocks + downstream_tables(arms)


def _end_row(arm: ArmRun) -> list[str]:
    speed = arm.series("tokens_per_s").values
    speed = speed[np.isfinite(speed)]
    return [
        _label(arm),
        count(arm.reached("step")),
        epochs(arm.reached("epoch")),
        count(arm.reached("tokens")),
        *[_value(arm, key) for key in METRICS],
        duration(arm.reached("seconds")),
        count(np.median(speed)) if len(speed) else NO_VALUE,
        state_of(arm),
    ]


def _label(arm: ArmRun) -> str:
    return f"`{arm.name}` ({arm.origin})" if arm.origin else f"`{arm.name}`"


def state_of(arm: ArmRun) -> str:
    """The state of a run, with the exit code of a failed one."""
    if not arm.case:
        return "not trained yet"
    state = str(arm.status.get("state", "no status"))
    return f"{state} ({arm.status.get('code', NO_VALUE)})" if state == "failed" else state


def _value(arm: ArmRun, key: str, measure: Measure = "step", limit: float = math.inf) -> str:
    """A metric at `limit`: smoothed for training, NaN if the last value is non-finite.

    Validation metrics at a finite limit are interpolated, because arms are validated at different
    steps. An arm that did not reach the limit has no value.
    """
    series = arm.series(key)
    index = series.index_at(measure, limit)
    if index is None or (math.isfinite(limit) and not arm.reached(measure) >= limit):
        return NO_VALUE
    if math.isfinite(limit) and not key.endswith("/train"):
        return metric(key, series.value_at(measure, limit))
    window = smoothing_window(len(series.values)) if key.endswith("/train") else 1
    last = series.values[max(0, index + 1 - window) : index + 1]
    return metric(key, float(np.nanmean(last)) if np.isfinite(last[-1]) else math.nan)


def best_cells(arm: ArmRun, key: str) -> list[str]:
    """The least loss or greatest accuracy, with its step and its epoch."""
    series = arm.series(key)
    if not np.isfinite(series.values).any():
        return [NO_VALUE] * 3
    find = np.nanargmin if key.startswith("loss/") else np.nanargmax
    at = int(find(series.values))
    step, epoch = float(series.at["step"][at]), float(series.at["epoch"][at])
    return [metric(key, float(series.values[at])), count(step), epochs(epoch)]


def _remarks(arms: Sequence[ArmRun]) -> list[str]:
    """Warn of arms that end at different steps, and give the message of those that stopped."""
    ends = {arm.name: arm.reached("step") for arm in arms if arm.lines}
    remarks = []
    if len(set(ends.values())) > 1:
        listed = ", ".join(f"`{name}` {count(end)}" for name, end in ends.items())
        remarks.append(
            f"**The arms end at different steps** ({listed}): compare them at equal steps, epochs, "
            "tokens or time, and state which."
        )
    for arm in arms:
        state, code = arm.status.get("state"), arm.status.get("code", NO_VALUE)
        if state in ("failed", "pre-empted"):
            message = one_line(str(arm.status.get("message", ""))) or "no message"
            step = count(arm.status.get("step"))
            remarks.append(f"`{arm.name}` {state} at step {step} (code {code}): {message}")
    return remarks


def _by_set(arms: Sequence[ArmRun], sets: Sequence[str]) -> list[str]:
    """Final and best metrics of each validation set."""
    header = ["arm"]
    header += [f"{name} {column}" for name in sets for column in ("loss", "best", "acc", "best")]
    keys = [f"{kind}/valid/{name}" for name in sets for kind in ("loss", "acc")]
    rows = []
    for arm in arms:
        cells = [cell for key in keys for cell in (_value(arm, key), best_cells(arm, key)[0])]
        rows.append([_label(arm), *cells])
    return ["By validation set: final and best values.", table(header, rows)]


def _at_equal_steps(arms: Sequence[ArmRun]) -> list[str]:
    """The metrics of every arm at the last step that all reached."""
    compared = _not_failed(arms)
    limit = min(arm.reached("step") for arm in compared)
    rows = []
    for arm in arms:
        epoch, validated = math.nan, NO_VALUE
        if arm.reached("step") >= limit:
            epoch = arm.series("epoch").value_at("step", limit)
            steps = arm.series("loss/valid").at["step"]
            nearest = [*steps[steps <= limit][-1:], *steps[steps >= limit][:1]]
            validated = ", ".join(count(step) for step in dict.fromkeys(nearest)) or NO_VALUE
        values = [_value(arm, key, "step", limit) for key in METRICS]
        rows.append([_label(arm), epochs(epoch), *values, validated])
    who = "all arms" if len(compared) == len(arms) else "all arms that did not fail"
    note = (
        f"At equal steps: step {count(limit)}, the last that {who} reached. Validation metrics are "
        "interpolated linearly between the nearest validations."
    )
    return [note, table(STEPS_HEADER, rows)]


def _at_equal_cost(arms: Sequence[ArmRun]) -> list[str]:
    """The validation metrics of every arm at equal epochs, tokens and time."""
    formats = {"epoch": epochs, "tokens": count, "seconds": duration}
    units = {"epoch": " epochs", "tokens": " tokens", "seconds": ""}
    header, columns = ["arm"], []
    for measure in MEASURES[1:]:
        limit = min(arm.reached(measure) for arm in _not_failed(arms))
        if math.isfinite(limit):
            header += [f"{formats[measure](limit)}{units[measure]}: valid loss", "valid acc"]
            columns += [("loss/valid", measure, limit), ("acc/valid", measure, limit)]
    if not columns:
        return []
    rows = [[_label(arm), *(_value(arm, *column) for column in columns)] for arm in arms]
    note = (
        "At equal epochs, tokens and time, interpolated linearly between the nearest validations."
    )
    return [note, table(header, rows)]


def _not_failed(arms: Sequence[ArmRun]) -> Sequence[ArmRun]:
    """The arms that set the common end: those that did not fail, or all if all failed."""
    return [arm for arm in arms if not arm.failed] or arms
