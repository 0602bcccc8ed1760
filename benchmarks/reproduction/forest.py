"""Draws all comparisons with their intervals in one plot."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.reproduction.paired import UNITS, Measure
from benchmarks.reproduction.verdicts import Result
from bertds.report.plots import DPI, STYLE

COLOURS = {"agrees": "#009988", "disagrees": "#cc3311", "undecided": "#8a94a3"}
ROW = 0.2
"""Inches of a comparison."""
WIDTH = 9.0
LINEAR = 0.1
"""Nats up to which the axis is linear."""
MEANINGS = {
    "agrees": "as stated",
    "disagrees": "the opposite",
    "undecided": "the interval has both",
}


def forest_plot(results: Sequence[Result]) -> bytes:
    """Draw the comparisons that have an interval, as the bytes of a PNG; empty if none has."""
    shown = [result for result in results if result.verdict != "not trained yet"]
    panels = {measure: [r for r in shown if r.comparison.measure == measure] for measure in UNITS}
    panels = {measure: rows for measure, rows in panels.items() if rows}
    if not panels:
        return b""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        heights = [len(rows) + 1.5 for rows in panels.values()]
        figure = Figure(figsize=(WIDTH, ROW * sum(heights) + 1.1), dpi=DPI, layout="constrained")
        axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axis, (measure, rows) in zip(axes, panels.items(), strict=True):
            _draw(axis, measure, rows)
        handles = [
            mpl.lines.Line2D([], [], color=colour, marker="o", label=MEANINGS[verdict])
            for verdict, colour in COLOURS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw(axis: Axes, measure: Measure, rows: Sequence[Result]) -> None:
    """One panel, with the first comparison at the top."""
    for number, result in enumerate(rows):
        effect = result.effect
        assert effect is not None
        colour = COLOURS[result.verdict]
        axis.plot([effect.low, effect.high], [number, number], color=colour, linewidth=1.6)
        axis.plot(effect.mean, number, "o", color=colour, markersize=4.5)
        axis.plot(effect.by_seed, [number] * len(effect.by_seed), "|", color=colour, markersize=7)
    axis.axvline(0, color="#333333", linewidth=0.8)
    labels = [
        f"{result.comparison.case.removeprefix('case')}: {result.comparison.text.replace('`', '')}"
        for result in rows
    ]
    axis.set_yticks(range(len(rows)), labels, fontsize=7.5)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    effects = [result.effect for result in rows if result.effect is not None]
    farthest = max(max(-effect.low, effect.high) for effect in effects)
    if measure == "nats" and farthest > LINEAR:  # a failing arm is many nats away, most are not
        axis.set_xscale("symlog", linthresh=LINEAR)
        axis.xaxis.set_major_locator(FixedLocator([-5, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 5]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(f"{UNITS[measure]} by which the first is better")
    axis.grid(visible=False, axis="y")
