"""What the page draws: the panels of a case as plain JSON, thinned to what a screen can show.

A curve of any length becomes at most `MOST_POINTS` points that keep each span's extremes, so a
case takes some hundred kilobytes. Smoothing comes before thinning: the same means as in the plots.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bertds.report.curves import COLOURS, Floats, are_far_apart, settled_limits, smoothed, steady
from bertds.report.formatting import NO_VALUE
from bertds.report.run_data import MEASURES, ArmRun, Series
from bertds.report.tables import best, state_of, validation_sets

__all__ = ["chart_data"]
MOST_POINTS = 800
DIGITS = 6
NAMES = {"loss": "loss", "acc": "accuracy"}
LABELS = {"loss": "nats per masked token", "acc": "share of masked tokens"}
Best = Literal["min", "max"]


def chart_data(arms: Sequence[ArmRun]) -> dict[str, Any]:
    """The arms with their colours, and the panels that have a curve."""
    panels = [
        *(panel for figure in ("loss", "acc") for panel in _figure_panels(arms, figure)),
        _panel(arms, "lr", "learning rate", "", kind="rate"),
        _panel(
            arms, "tokens_per_s", "throughput", "real tokens a second", kind="speed", smooth=True
        ),
        _panel(arms, "grad_norm", "gradient norm", "before clipping", kind="speed", smooth=True),
    ]
    return {
        "arms": [_arm(number, arm) for number, arm in enumerate(arms)],
        "panels": [panel for panel in panels if panel["curves"]],
    }


def _arm(number: int, arm: ArmRun) -> dict[str, Any]:
    """How an arm is shown in every panel, and in a few words."""
    accuracy = best(arm, "acc/valid")[0] if arm.lines else NO_VALUE
    words = [f"= {arm.same_as}"] if arm.same_as else []
    state = state_of(arm)
    return {
        "name": arm.name,
        "colour": COLOURS[number % len(COLOURS)],
        "dash": ("solid", "dash", "dot")[number // len(COLOURS) % 3],
        "best": "" if accuracy in (NO_VALUE, "NaN") else accuracy,
        "failed": arm.failed,
        "words": " ".join(words + ([] if state == "done" else [state])),
    }


def _figure_panels(arms: Sequence[ArmRun], figure: str) -> list[dict[str, Any]]:
    """Training beside validation, and each validation set if there are several."""
    mark: Best = "min" if figure == "loss" else "max"
    label, name = LABELS[figure], NAMES[figure]
    sets = validation_sets(arms)
    several = sets if len(sets) > 1 else []
    return [
        _panel(arms, f"{figure}/train", f"training {name}", label, smooth=True),
        _panel(arms, f"{figure}/valid", f"validation {name}", label, mark=mark),
        *(
            _panel(arms, f"{figure}/valid/{one}", f"validation {name}, {one}", label, mark=mark)
            for one in several
        ),
    ]


def _panel(
    arms: Sequence[ArmRun],
    key: str,
    title: str,
    label: str,
    *,
    kind: Literal["figure", "rate", "speed"] = "figure",
    smooth: bool = False,
    mark: Best | None = None,
) -> dict[str, Any]:
    """One figure of all arms that logged it."""
    every = [(number, arm.series(key)) for number, arm in enumerate(arms)]
    known = [(number, series) for number, series in every if np.isfinite(series.values).any()]
    means = [smoothed(series.values) if smooth else series.values for _, series in known]
    limits = None
    if kind == "figure":
        steadied = [(one.at["step"], steady(one.values, smooth=smooth)) for _, one in known]
        limits = settled_limits(steadied)
    return {
        "key": key,
        "title": title,
        "label": label,
        "kind": kind,
        "log": kind == "rate" and are_far_apart(means),
        "limits": None if limits is None else _numbers(np.array(limits)),
        "curves": [
            _curve(number, series, mean, mark)
            for (number, series), mean in zip(known, means, strict=True)
        ],
    }


def _curve(number: int, series: Series, mean: Floats, mark: Best | None) -> dict[str, Any]:
    """One arm's points: where they lie in each measure, the value, its mean, the best of them."""
    kept = _kept(series.values)
    curve: dict[str, Any] = {"arm": number, "y": _numbers(series.values[kept])}
    if not np.array_equal(mean, series.values, equal_nan=True):
        curve["mean"] = _numbers(mean[kept])
    for measure in MEASURES:
        curve[measure] = _numbers(series.at[measure][kept])
    if mark is not None:
        find = np.nanargmin if mark == "min" else np.nanargmax
        curve["best"] = int(find(series.values[kept]))
    return curve


def _kept(values: Floats) -> list[int]:
    """The points to show: all of a short curve, else each span's least and greatest, and the ends."""
    if len(values) <= MOST_POINTS:
        return list(range(len(values)))
    kept = {0, len(values) - 1}
    for span in np.array_split(np.arange(len(values)), MOST_POINTS // 2 - 1):
        if np.isfinite(values[span]).any():
            kept |= {int(span[find(values[span])]) for find in (np.nanargmin, np.nanargmax)}
        else:
            kept.add(int(span[0]))  # the gap shows
    return sorted(kept)


def _numbers(values: Floats) -> list[float | int | None]:
    """Rounded to what can be seen, whole numbers without a point, null for what is no number."""
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value.is_integer():
        return int(value)
    return float(f"{value:.{DIGITS}g}")
