"""Draws curves as PNG, SVG or PDF with matplotlib.

The same curves give the same bytes: the user's matplotlibrc is ignored, and the file contains no
date or version. A plot takes half a second.
"""

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bertds.report.curves import (
    COLOURS,
    Curve,
    Panel,
    axis_limits,
    extremes,
    needs_log_axis,
    place_label,
    smoothed,
)
from bertds.report.formatting import time_unit
from bertds.report.run_data import Floats, Measure

__all__ = ["draw_panels"]
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.parse_math": False,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.hashsalt": "bertds",
}
Format = Literal["png", "svg", "pdf"]
METADATA: dict[Format, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Creator": None, "Date": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}
"""What a file would tell of the program and the time."""
BASELINE_COLOUR = "#5b6675"
DPI = 200
WIDTHS = (6.5, 9.0)
"""Inches, of a plot with one and with two columns."""
MAX_POINTS = 8000
"""Longer curves are thinned; a panel is less than 1000 pixels wide."""
MAX_POINTS_WITH_MARKERS = 30
LEGEND_CHARACTERS_PER_INCH = 11.5


def draw_panels(
    panels: Sequence[Panel],
    *,
    x: Measure,
    y_label: str,
    is_rate: bool = False,
    seams: Sequence[float] = (),
    formats: Sequence[Format] = ("png",),
) -> dict[Format, bytes]:
    """Draw panels with common limits and one legend, as the bytes of a file of each format.

    Args:
        panels: In rows of two.
        x: The measure on the x axis.
        y_label: Name and unit of the metric.
        is_rate: Whether the y axis begins at zero or is logarithmic, as for learning rates;
            otherwise it shows the range in which the curves settle.
        seams: Places on the x axis that get a vertical line.
        formats: Of the files.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = _draw(panels, x, y_label, is_rate=is_rate, seams=seams)
        return {each: _file_of(figure, each) for each in formats}


def _file_of(figure: Figure, file_format: Format) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=file_format, metadata=METADATA[file_format])
    return file.getvalue()


def _draw(
    panels: Sequence[Panel], x: Measure, y_label: str, *, is_rate: bool, seams: Sequence[float]
) -> Figure:
    curves = [curve for panel in panels for curve in panel.curves]
    end = max((float(curve.x[-1]) for curve in curves if len(curve.x)), default=0.0) or 1.0
    x_label, suffix, unit = _x_unit(x, end)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = WIDTHS[columns - 1]
    legend_columns, legend_rows = _legend_shape({curve.label for curve in curves}, width)
    size = (width, 3.0 * rows + 0.19 * legend_rows)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid[:, 0]:
        axes.set_ylabel(y_label)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()

    first, limits = grid.flat[0], axis_limits(panels)
    first.set_xlim(-0.015 * end / unit, 1.02 * end / unit)
    if is_rate:
        _scale_rates(first, [curve.y for curve in curves])
    elif limits:
        first.set_ylim(*limits)
    tick_format = FuncFormatter(lambda value, _: f"{value:g}{suffix}" if value else "0")
    for axes, panel in zip(grid.flat, panels, strict=False):
        axes.set_title(panel.title)
        axes.set_xlabel(x_label)
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(tick_format)
        _draw_curves(axes, panel, unit, is_rate=is_rate)
        _draw_baselines(axes, panel)
        for place in seams:
            axes.axvline(place / unit, color=BASELINE_COLOUR, linewidth=0.9, linestyle=":")
    if legend_rows:
        _add_legend(figure, legend_columns)
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine("none")  # savefig would draw the figure once more for it
    return figure


def _x_unit(x: Measure, end: float) -> tuple[str, str, float]:
    """Label of the x axis, suffix of its ticks, and the size of its unit."""
    if x == "seconds":
        name, seconds = time_unit(end)
        return f"relative wall time ({name})", "", seconds
    label = {"step": "steps", "epoch": "epochs", "tokens": "tokens, padding excluded"}[x]
    units = (("", 1.0, 1e4), ("k", 1e3, 1e6), ("M", 1e6, 1e10), ("G", 1e9, math.inf))
    suffix, unit = next((suffix, unit) for suffix, unit, limit in units if end < limit)
    return label, suffix, unit


def _draw_curves(axes: Axes, panel: Panel, unit: float, *, is_rate: bool) -> None:
    """Draw the raw curves faintly behind all means, and mark best values and failures."""

    def plot(curve: Curve, y: Floats, **style: Any) -> None:
        kept = extremes(y, MAX_POINTS)
        axes.plot(curve.x[kept] / unit, y[kept], color=_colour(curve), **style)

    _draw_leads(axes, panel, unit)
    if panel.smooth:
        for curve in panel.curves:
            plot(curve, curve.y, alpha=0.2, linewidth=0.6)
    for curve in panel.curves:
        if curve.band is not None:
            low, high = map(smoothed, curve.band) if panel.smooth else curve.band
            colour = _colour(curve)
            axes.fill_between(curve.x / unit, low, high, color=colour, alpha=0.2, linewidth=0)
    for order, curve in enumerate(panel.curves):
        y = smoothed(curve.y) if panel.smooth else curve.y
        finite = np.flatnonzero(np.isfinite(y))
        # Rates often coincide: a wider line stays visible below the ones in front of it.
        covered = _num_in_front(panel.curves, order) if is_rate else 0
        plot(
            curve,
            y,
            label=curve.label,
            linestyle=DASHES[curve.colour // len(COLOURS) % len(DASHES)],
            linewidth=1.3 + 1.4 * covered,
            marker="." if len(finite) <= (1 if is_rate else MAX_POINTS_WITH_MARKERS) else "none",
            markersize=4,
        )
        mark: dict[str, Any] = {"color": _colour(curve), "zorder": 3}
        if panel.best != "none":
            find = np.argmin if panel.best == "min" else np.argmax
            at = finite[find(y[finite])]
            axes.plot(curve.x[at] / unit, y[at], "o", markersize=5.5, markerfacecolor="w", **mark)
        if curve.failed:
            at = finite[-1]
            axes.plot(curve.x[at] / unit, y[at], "X", markersize=7, markeredgecolor="w", **mark)


def _draw_leads(axes: Axes, panel: Panel, unit: float) -> None:
    """Draw the runs that arms branch from as thin dashed lines, behind all curves."""
    for curve in panel.curves:
        if curve.lead is not None:
            x, y = curve.lead
            y = smoothed(y) if panel.smooth else y
            kept = extremes(y, MAX_POINTS)
            axes.plot(x[kept] / unit, y[kept], color=_colour(curve), linewidth=0.7, linestyle="--")


def _draw_baselines(axes: Axes, panel: Panel) -> None:
    """Draw each baseline as a line with its value; only the value if it is outside the limits."""
    low, high = axes.get_ylim()
    for number, baseline in enumerate(panel.baselines):
        colour = BASELINE_COLOUR
        if baseline.colour is not None:
            colour = COLOURS[baseline.colour % len(COLOURS)]
        label = place_label(panel, baseline, low, high)
        shift = 2.0 + 9.0 * number if label.is_outside else 2.0  # one below the other
        if not label.is_outside:
            axes.axhline(label.y, color=colour, linewidth=0.9, linestyle=(0, (6, 3)))
        axes.annotate(
            label.text,
            xy=(0.99 if label.side == "right" else 0.01, label.y),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, shift if label.is_above else -shift),
            textcoords="offset points",
            color=colour,
            fontsize=7.5,
            ha=label.side,
            va="bottom" if label.is_above else "top",
        )


def _num_in_front(curves: Sequence[Curve], order: int) -> int:
    """The number of later curves that cover this one nearly everywhere."""
    behind = curves[order]
    number = 0
    for front in curves[order + 1 :]:
        shared = behind.x <= front.x[-1]
        values = np.interp(behind.x[shared], front.x, front.y)
        close = np.isclose(values, behind.y[shared], rtol=0.02)
        number += bool(np.sum(close) > 0.9 * len(close))
    return number


def _colour(curve: Curve) -> str:
    return COLOURS[curve.colour % len(COLOURS)]


def _scale_rates(axes: Axes, rates: Sequence[Floats]) -> None:
    """Scale the y axis from zero, or logarithmically over at most four decades; ticks as 5e-4."""
    values = np.concatenate([rate[np.isfinite(rate)] for rate in rates])
    high = float(values.max(initial=0.0)) or 1.0
    if needs_log_axis(rates):
        low = float(values[values > 0].min(initial=high))
        axes.set_yscale("log")
        axes.set_ylim(max(low, 1e-4 * high) / 1.4, high * 1.4)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(-0.03 * high, 1.06 * high)
    axes.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))


def _power_of_ten(value: float, _: object) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def _legend_shape(labels: set[str], width: float) -> tuple[int, int]:
    """Columns and rows of the legend, its rows filled evenly; no legend for a single arm."""
    if len(labels) < 2:
        return 0, 0
    widest = max(len(label) for label in labels) + 6
    columns = max(1, min(len(labels), int(LEGEND_CHARACTERS_PER_INCH * width / widest)))
    rows = math.ceil(len(labels) / columns)
    return math.ceil(len(labels) / rows), rows


def _add_legend(figure: Figure, columns: int) -> None:
    """Add one entry per arm, below the panels, where it hides no curve."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=columns,
        handlelength=1.8,
    )
