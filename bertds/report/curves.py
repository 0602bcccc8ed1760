"""What the plots show, independent of the plotting library: panels, curves, smoothing, axis limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bertds.report.formatting import metric as format_metric
from bertds.report.run_data import ArmRun, Floats, Measure, validation_sets
from bertds.report.seed_groups import range_of

__all__ = [
    "COLOURS",
    "Curve",
    "Metric",
    "Panel",
    "axis_limits",
    "bits_panel",
    "collect_curves",
    "extremes",
    "metric_panels",
    "needs_log_axis",
    "running_mean",
    "smoothed",
    "smoothing_window",
]
Metric = Literal["loss", "acc"]
METRICS: dict[Metric, tuple[str, str, Literal["min", "max"]]] = {
    "loss": ("loss", "nats per masked token", "min"),
    "acc": ("accuracy", "fraction of masked tokens", "max"),
}
"""Name, unit, and which value is best."""
COLOURS = ("#ff7043", "#0077bb", "#cc3311", "#33bbee", "#ee3377", "#009988", "#bbbbbb")
"""TensorBoard's palette for Scalars and Custom Scalars, distinct with any colour vision. Further
arms reuse the colours with dashed lines."""
LOG_RATIO = 8.0
"""Learning rates whose maxima differ by more than this factor need a logarithmic axis."""
SETTLING_FRACTION = 0.05
"""The start of a curve that does not set the axis limits: every loss starts at ln(vocabulary size),
and the differences between arms come later."""
MIN_POINTS_WITH_SPIKES = 50
"""Curves with at least this number of points may exceed the axis limits with single spikes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One metric of one arm."""

    label: str
    arm: int
    """Index of the arm in its case."""
    colour: int
    """The arm's number in the palette, the same in every plot."""
    x: Floats
    """[N], ascending."""
    y: Floats
    """[N]; NaN leaves a gap."""
    failed: bool
    """Whether the run failed; its last point is marked."""
    band: tuple[Floats, Floats] | None = None
    """[N] least and greatest values, if the curve is a mean over seeds."""
    lead: tuple[Floats, Floats] | None = None
    """x and y of the run that it branches from, up to the first point of the curve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A value that curves are compared with: the unigram or neighbour baseline of a validation set."""

    value: float
    text: str
    """Its name, its value, and its arms if others have another one."""
    colour: int | None
    """The number of an arm's colour; None if all arms share the baseline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """The curves of one metric, drawn in one pair of axes."""

    key: str
    """The metric's name in `metrics.jsonl`."""
    title: str
    curves: tuple[Curve, ...]
    unit: str = ""
    smooth: bool = False
    """Draws the running mean in front of the faint curve."""
    best: Literal["none", "min", "max"] = "none"
    """Marks the least or greatest value of each curve."""
    baselines: tuple[Baseline, ...] = ()
    """Drawn as horizontal lines."""


def metric_panels(arms: Sequence[ArmRun], metric: Metric, x: Measure) -> list[Panel]:
    """The panels of loss or accuracy: training, validation, and each set if there are several."""
    name, unit, best = METRICS[metric]
    all_sets = validation_sets(arms)
    sets = {f"validation {name}": ""}
    if len(all_sets) > 1:
        sets |= {f"validation {name}, {one}": one for one in all_sets}
    key = f"{metric}/train"
    curves = collect_curves(arms, key, x)
    panels = [Panel(key=key, title=f"training {name}", curves=curves, unit=unit, smooth=True)]
    for title, one in sets.items():
        key = f"{metric}/valid/{one}" if one else f"{metric}/valid"
        curves, baselines = collect_curves(arms, key, x), _baselines(arms, metric, one)
        panel = Panel(
            key=key, title=title, curves=curves, unit=unit, best=best, baselines=baselines
        )
        panels.append(panel)
    return panels


def bits_panel(arms: Sequence[ArmRun], x: Measure) -> Panel:
    """The panel of bits per character in validation, which compare different vocabularies."""
    key = "bits_per_character/valid"
    curves = collect_curves(arms, key, x)
    return Panel(key=key, title="validation", curves=curves, unit="bits per character", best="min")


def _baselines(arms: Sequence[ArmRun], metric: Metric, valid_set: str) -> tuple[Baseline, ...]:
    """The baselines of a validation set, or of all sets; each value once."""
    by_text: dict[str, tuple[float, list[ArmRun]]] = {}
    for arm in arms:
        for name, values in arm.baselines(valid_set).items() if arm.lines else ():
            value = values["accuracy" if metric == "acc" else metric]
            text = f"{name} baseline {format_metric(f'{metric}/valid', value)}"
            by_text.setdefault(text, (value, []))[1].append(arm)
    baselines = []
    num_arms = sum(bool(arm.lines) for arm in arms)
    for text, (value, owners) in by_text.items():
        if len(owners) == num_arms:
            baselines.append(Baseline(value=value, text=text, colour=None))
        else:
            others = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
            named = f"{text} ({owners[0].name}{others})"
            baselines.append(Baseline(value=value, text=named, colour=owners[0].colour))
    return tuple(baselines)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineLabel:
    """The text of a baseline, and where it stands."""

    text: str
    """With an arrow if the baseline is outside the axis limits."""
    y: float
    """The baseline's value, or the limit that is nearest to it."""
    is_outside: bool
    is_above: bool
    """Whether the text is above `y`, toward the middle of the axis."""
    side: Literal["left", "right"]


def place_label(panel: Panel, baseline: Baseline, low: float, high: float) -> BaselineLabel:
    """Place the text of a baseline in a panel with these limits of the y axis."""
    y, text = baseline.value, baseline.text
    is_outside = not low <= y <= high
    if is_outside:
        y, text = (low, f"{text} ↓") if y < low else (high, f"{text} ↑")
    return BaselineLabel(
        text=text,
        y=y,
        is_outside=is_outside,
        is_above=y < (low + high) / 2,
        side=label_side(panel, baseline),
    )


def label_side(panel: Panel, baseline: Baseline) -> Literal["left", "right"]:
    """The end of a baseline that is farther from the curves, for its text."""
    x = np.concatenate([curve.x for curve in panel.curves] or [np.zeros(0)])
    y = np.concatenate([curve.y for curve in panel.curves] or [np.zeros(0)])
    x, distance = x[np.isfinite(y)], np.abs(y[np.isfinite(y)] - baseline.value)
    if not x.size:
        return "right"
    third = (x.max() - x.min()) / 3
    left = distance[x <= x.min() + third].min()
    right = distance[x >= x.max() - third].min()
    return "left" if left > right else "right"


def collect_curves(arms: Sequence[ArmRun], key: str, x: Measure) -> tuple[Curve, ...]:
    """The curve of each arm that logged a finite value at a known progress."""
    curves = []
    for index, arm in enumerate(arms):
        series = arm.series(key)
        known = np.isfinite(series.at[x])
        if np.isfinite(series.values[known]).any():
            label = f"{arm.name} (failed)" if arm.failed else arm.name
            at, values = series.at[x][known], series.values[known]
            band = range_of(arm, key)
            curve = Curve(
                label=label,
                arm=index,
                colour=arm.colour,
                x=at,
                y=values,
                failed=arm.failed,
                band=None if band is None else (band[0][known], band[1][known]),
                lead=_lead(arm, key, x),
            )
            curves.append(curve)
    return tuple(curves)


def _lead(arm: ArmRun, key: str, x: Measure) -> tuple[Floats, Floats] | None:
    lead = arm.lead(key)
    if lead is None:
        return None
    known = np.isfinite(lead.at[x])
    return lead.at[x][known], lead.values[known]


def smoothing_window(num_points: int) -> int:
    """Number of points in the running mean: odd, and 1 (no smoothing) for a short curve.

    A fortieth of the curve, at most 101 points, but not less than a two-hundredth. Wide enough to
    hide noise, narrower than the shortest cycle of a schedule with restarts.
    """
    return max(1, min(101, 2 * round((num_points - 20) / 80) + 1), num_points // 400 * 2 + 1)


def running_mean(values: Floats, window: int) -> Floats:
    """Centred mean over `window` points [N]; NaN stays NaN and is left out of other means.

    At the start the window shrinks on both sides, which keeps the shape of the first fall. At the
    end it shrinks on the right only, so that the last value is a mean as well.
    """
    finite = np.isfinite(values)
    index = np.arange(len(values))
    half = np.minimum(window // 2, index)
    bounds = np.stack([index - half, np.minimum(index + half + 1, len(values))], axis=1).ravel()

    def window_sums(numbers: Floats) -> Floats:
        # Not a difference of cumulative sums: one huge value would destroy their precision.
        return np.add.reduceat(np.append(numbers, 0.0), bounds)[::2]

    counts = window_sums(finite.astype(np.float64))
    means = window_sums(np.where(finite, values, 0.0)) / np.maximum(1, counts)
    return np.where(finite, means, np.nan)


def smoothed(values: Floats) -> Floats:
    """The running mean with the window for a curve of this length."""
    return running_mean(values, smoothing_window(len(values)))


def extremes(values: Floats, num_points: int) -> list[int]:
    """Indices that draw the same picture with at most `num_points` points (thinning).

    All of a short curve, otherwise the ends and the least and greatest value of each of equal
    spans. A span without finite values keeps one point, so that the gap is visible.
    """
    if len(values) <= num_points:
        return list(range(len(values)))
    kept = {0, len(values) - 1}
    for span in np.array_split(np.arange(len(values)), num_points // 2 - 1):
        finite = span[np.isfinite(values[span])]
        if len(finite):
            kept |= {int(finite[find(values[finite])]) for find in (np.argmin, np.argmax)}
        else:
            kept.add(int(span[0]))
    return sorted(kept)


def axis_limits(panels: Sequence[Panel]) -> tuple[float, float] | None:
    """Limits that contain every curve once it has settled, without its first fall and its spikes.

    A baseline is inside them unless it would take more than half of the axis from the curves.

    Returns:
        None if no curve has a finite value.
    """
    lows, highs = [], []
    for panel in panels:
        for curve in panel.curves:
            for values in (curve.y, *(curve.band or ())):
                y = _without_spikes(values)
                y = smoothed(y) if panel.smooth else y
                finite = np.isfinite(y)
                settled = y[finite & (curve.x >= SETTLING_FRACTION * curve.x[-1])]
                settled = settled if len(settled) > 1 else y[finite]
                if len(settled):
                    lows.append(np.quantile(settled, 0.002))
                    highs.append(np.quantile(settled, 0.998))
            if curve.lead is not None:  # where the curve leaves that of its trunk
                y = smoothed(curve.lead[1]) if panel.smooth else curve.lead[1]
                lows += y[np.isfinite(y)][-2:].tolist()
                highs += y[np.isfinite(y)][-2:].tolist()
    if not lows:
        return None
    low, high = float(min(lows)), float(max(highs))
    near = [
        baseline.value
        for panel in panels
        for baseline in panel.baselines
        if 2 * low - high <= baseline.value <= 2 * high - low
    ]
    low, high = min(low, *near, high), max(high, *near, low)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _without_spikes(values: Floats) -> Floats:
    """Median of five points around each point of a long curve; monotonic curves do not change."""
    if len(values) < MIN_POINTS_WITH_SPIKES:
        return values
    windows = np.lib.stride_tricks.sliding_window_view(values, 5)
    empty = np.isnan(windows).all(axis=1, keepdims=True)
    medians = np.nanmedian(np.where(empty, 0.0, windows), axis=1)  # would warn of empty windows
    medians[np.ravel(empty)] = np.nan
    return np.concatenate([values[:2], medians, values[-2:]])


def needs_log_axis(rates: Sequence[Floats]) -> bool:
    """Whether the maxima of these curves differ too much for a linear axis."""
    maxima = [peak for rate in rates if (peak := float(np.nanmax(rate, initial=0.0))) > 0]
    return bool(maxima) and max(maxima) > LOG_RATIO * min(maxima)
