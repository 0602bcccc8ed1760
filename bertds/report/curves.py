"""What is drawn, before it is known how: curves, and the arithmetic that makes them readable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "COLOURS",
    "Curve",
    "Floats",
    "Panel",
    "are_far_apart",
    "running_mean",
    "settled_limits",
    "smoothed",
    "smoothing_window",
    "steady",
    "thinned",
]
Floats = npt.NDArray[np.float64]


# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart with any colour vision; its yellow
# is too pale for a line on white. More arms than colours go round again in dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


# Learning rates further apart than this are drawn on a logarithmic axis.
LOG_RATIO = 8.0


# What a curve does in this share of its length does not set the limits of the axes: every loss
# starts at ln(vocabulary), and the differences between arms come later.
SETTLING_SHARE = 0.05


# More than the pixels of a panel's width.
SPANS = 2000


# Curves of as many points have spikes; of fewer, every point is drawn.
LONG = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One figure of one arm.

    `x` [N] ascends, in steps or seconds; `y` [N] may hold NaN (drawn as a gap). `arm` is the arm's
    number in its case: the same colour in every plot. A failed arm's end is marked.
    """

    label: str
    arm: int
    x: Floats
    y: Floats
    failed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """Curves in one pair of axes.

    `smooth` draws the running mean over the faint curve, `best` marks each curve's least or
    greatest value, `nested` draws a curve wider under one that coincides with it, so both show.
    """

    title: str
    curves: tuple[Curve, ...]
    smooth: bool = False
    best: Literal["none", "min", "max"] = "none"
    nested: bool = False


def smoothing_window(num_points: int) -> int:
    """Points in the running mean of a curve: odd, 1 (as it is) for a short curve.

    A fortieth of the curve up to 101 points, then no more until that is a two-hundredth: what the
    eye takes for noise, and less than the shortest cycle of a schedule that restarts.
    """
    return max(1, min(101, 2 * round((num_points - 20) / 80) + 1), num_points // 400 * 2 + 1)


def running_mean(values: Floats, window: int) -> Floats:
    """The centred mean over `window` points [N]; NaN stays NaN and is left out of its neighbours'.

    At the start the window shrinks on both sides alike, so that the first fall is not bent; at
    the end it loses its right side only, so that the last value is a mean too.
    """
    finite = np.isfinite(values)
    index = np.arange(len(values))
    half = np.minimum(window // 2, index)
    spans = np.stack([index - half, np.minimum(index + half + 1, len(values))], axis=1).ravel()

    def sums(numbers: Floats) -> Floats:
        # Each window by itself: of running totals one huge value would leave nothing but its rounding.
        return np.add.reduceat(np.append(numbers, 0.0), spans)[::2]

    means = sums(np.where(finite, values, 0.0)) / np.maximum(1, sums(finite.astype(np.float64)))
    return np.where(finite, means, np.nan)


def smoothed(values: Floats) -> Floats:
    """The running mean that a curve of so many points is drawn with."""
    return running_mean(values, smoothing_window(len(values)))


def steady(values: Floats, *, smooth: bool) -> Floats:
    """A curve as the limits of its axes want it: without spikes, then smoothed if it is drawn so.

    Each point of a long curve is the median of the five around it, which leaves a curve that falls
    or rises as it is.
    """
    if len(values) >= LONG:
        near = np.lib.stride_tricks.sliding_window_view(values, 5)
        lost = np.isnan(near).all(axis=1, keepdims=True)  # of which nanmedian would warn
        medians = np.nanmedian(np.where(lost, 0.0, near), axis=1)
        medians[np.ravel(lost)] = np.nan
        values = np.concatenate([values[:2], medians, values[-2:]])
    return smoothed(values) if smooth else values


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Least and greatest value of each short span: the same picture of any number of points."""
    if len(y) <= 4 * SPANS:
        return x, y
    starts = np.linspace(0, len(y), SPANS, endpoint=False).astype(np.int64)
    pairs = np.stack([np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)], axis=1)
    return np.append(np.repeat(x[starts], 2), x[-1]), np.append(pairs.ravel(), y[-1])


def settled_limits(shown: Sequence[tuple[Floats, Floats]]) -> tuple[float, float] | None:
    """Limits that hold every steady curve from where it has settled, and not its first fall.

    None if no curve has a finite value.
    """
    lows, highs = [], []
    for x, y in shown:
        finite = np.isfinite(y)
        settled = y[finite & (x >= SETTLING_SHARE * x[-1])]
        settled = settled if len(settled) > 1 else y[finite]
        if len(settled):
            lows.append(np.quantile(settled, 0.002))
            highs.append(np.quantile(settled, 0.998))
    if not lows:
        return None
    low, high = float(min(lows)), float(max(highs))
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def are_far_apart(rates: Sequence[Floats]) -> bool:
    """Whether the peaks of these curves want a logarithmic axis."""
    peaks = [peak for rate in rates if (peak := float(np.nanmax(rate, initial=0.0))) > 0]
    return bool(peaks) and max(peaks) > LOG_RATIO * min(peaks)
