"""Curves of several arms as PNG: panels side by side, one colour an arm, the legend outside.

The same curves give the same bytes: matplotlib's own defaults are set first, whatever the user's
matplotlibrc says, and no date or version is written into the file. A plot takes half a second.
"""

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bertds.report.curves import (
    COLOURS,
    Curve,
    Floats,
    Panel,
    settled_limits,
    smoothed,
    steady,
    thinned,
)

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
}
DPI = 200


# A curve of so few points shows them.
POINTS_WITH_MARKERS = 30
LEGEND_CHARACTERS_AN_INCH = 11.5


def draw_panels(
    panels: Sequence[Panel],
    *,
    x: Literal["steps", "time"],
    y: Literal["figures", "rates", "rates, log"],
    y_label: str,
) -> bytes:
    """Draws the panels, with the same limits and one legend, as the bytes of a PNG.

    Args:
        panels: From left to right, top to bottom.
        x: What the curves' x is.
        y: Figures are shown from where they have settled, rates from zero or logarithmically.
        y_label: The figure's name and unit.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        curves = [curve for panel in panels for curve in panel.curves]
        unit = _step_unit(curves) if x == "steps" else _time_unit(curves)
        figure, all_axes = _new_figure(len(panels), curves, y_label)
        for axes, panel in zip(all_axes, panels, strict=True):
            _draw_panel(axes, panel, unit)
        end = _end(curves) / unit.size
        all_axes[0].set_xlim(-0.015 * end, 1.02 * end)
        if y == "figures":
            _scale_settled(all_axes[0], panels)
        else:
            shown = [curve for panel in panels for curve in _shown(panel)]
            _scale_rates(all_axes[0], shown, log=y == "rates, log")
        _add_legend(figure, all_axes)
        _lay_out(figure)
        png = io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _new_figure(
    num_panels: int, curves: Sequence[Curve], y_label: str
) -> tuple[Figure, list[Axes]]:
    """A figure with room for the legend, and axes for the panels, which share their limits."""
    columns = min(2, num_panels)
    rows = math.ceil(num_panels / columns)
    width = (6.5, 9.0)[columns - 1]
    _, legend_rows = _legend_shape({curve.label for curve in curves}, width)
    size = (width, 3.0 * rows + 0.19 * legend_rows)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid[:, 0]:
        axes.set_ylabel(y_label)
    for axes in grid.flat[num_panels:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:num_panels])


def _lay_out(figure: Figure) -> None:
    """What `savefig` does as well, but only by drawing the figure once more."""
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    figure.set_layout_engine("none")


@dataclass(frozen=True, slots=True)
class _Unit:
    """What one unit of the x axis is: `size` steps or seconds."""

    label: str
    suffix: str
    size: float


def _end(curves: Sequence[Curve]) -> float:
    return max((float(curve.x[-1]) for curve in curves if len(curve.x)), default=0.0) or 1.0


def _step_unit(curves: Sequence[Curve]) -> _Unit:
    end = _end(curves)
    suffix, size = ("", 1.0) if end < 10_000 else ("k", 1e3) if end < 1e6 else ("M", 1e6)
    return _Unit("steps", suffix, size)


def _time_unit(curves: Sequence[Curve]) -> _Unit:
    units = (("s", 1.0, 180.0), ("min", 60.0, 3 * 3600.0), ("h", 3600.0, 4 * 86400.0))
    end = _end(curves)
    name, size = next(((name, size) for name, size, to in units if end < to), ("days", 86400.0))
    return _Unit(f"relative wall time ({name})", "", size)


def _shown(panel: Panel) -> list[tuple[Floats, Floats]]:
    """The x and y of each curve as it is drawn in full strength."""
    if not panel.smooth:
        return [(curve.x, curve.y) for curve in panel.curves]
    return [(curve.x, smoothed(curve.y)) for curve in panel.curves]


def _draw_panel(axes: Axes, panel: Panel, unit: _Unit) -> None:
    axes.set_title(panel.title)
    axes.set_xlabel(unit.label)
    axes.tick_params(labelbottom=True, labelleft=True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}{unit.suffix}" if value else "0")
    )
    if panel.smooth:
        for curve in panel.curves:
            x, y = thinned(curve.x / unit.size, curve.y)
            axes.plot(x, y, color=_colour(curve), alpha=0.2, linewidth=0.6)
    for order, (curve, (x, y)) in enumerate(zip(panel.curves, _shown(panel), strict=True)):
        few = np.isfinite(y).sum() <= (1 if panel.nested else POINTS_WITH_MARKERS)
        axes.plot(
            *thinned(x / unit.size, y),
            color=_colour(curve),
            label=curve.label,
            linestyle=DASHES[curve.arm // len(COLOURS) % len(DASHES)],
            linewidth=1.3 + 1.4 * panel.nested * _num_on_top(panel.curves, order),
            marker="." if few else "none",
            markersize=4,
        )
        _mark_ends(axes, curve, x / unit.size, y, panel.best)


def _num_on_top(curves: Sequence[Curve], order: int) -> int:
    """The curves drawn later that cover this one nearly everywhere."""
    below = curves[order]
    covering = 0
    for above in curves[order + 1 :]:
        shared = below.x <= above.x[-1]
        values = np.interp(below.x[shared], above.x, above.y)
        close = np.isclose(values, below.y[shared], rtol=0.02)
        covering += bool(np.sum(close) > 0.9 * len(close))
    return covering


def _mark_ends(axes: Axes, curve: Curve, x: Floats, y: Floats, best: str) -> None:
    """A ring at the best value, a cross where a failed arm's curve breaks off."""
    finite = np.flatnonzero(np.isfinite(y))
    if not len(finite):
        return
    style: dict[str, Any] = {"color": _colour(curve), "zorder": 3}
    if best != "none":
        at = finite[np.argmin(y[finite]) if best == "min" else np.argmax(y[finite])]
        axes.plot(x[at], y[at], "o", markersize=5.5, markerfacecolor="white", **style)
    if curve.failed:
        end = finite[-1]
        axes.plot(x[end], y[end], "X", markersize=7, markeredgecolor="white", **style)


def _colour(curve: Curve) -> str:
    return COLOURS[curve.arm % len(COLOURS)]


def _scale_settled(axes: Axes, panels: Sequence[Panel]) -> None:
    limits = settled_limits(
        [
            (curve.x, steady(curve.y, smooth=panel.smooth))
            for panel in panels
            for curve in panel.curves
        ]
    )
    if limits is not None:
        axes.set_ylim(*limits)


def _scale_rates(axes: Axes, shown: Sequence[tuple[Floats, Floats]], log: bool) -> None:
    """From zero, or over as many decades as there are, at most four; ticks as 5e-4."""
    values = np.concatenate([y[np.isfinite(y)] for _, y in shown])
    high = float(values.max(initial=0.0)) or 1.0
    if log:
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


def _legend_shape(labels: Collection[str], width: float) -> tuple[int, int]:
    """Columns and rows of the legend, its rows filled evenly; none for a single arm."""
    if len(labels) < 2:
        return 0, 0
    widest = max(len(label) for label in labels) + 6
    columns = max(1, min(len(labels), int(LEGEND_CHARACTERS_AN_INCH * width / widest)))
    rows = math.ceil(len(labels) / columns)
    return math.ceil(len(labels) / rows), rows


def _add_legend(figure: Figure, all_axes: Sequence[Axes]) -> None:
    """One entry an arm, below the panels: it hides no curve."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns, rows = _legend_shape(entries, figure.get_figwidth())
    if rows:
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=columns,
            handlelength=1.8,
        )
