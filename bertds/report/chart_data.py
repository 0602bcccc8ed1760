"""The interactive figure of a case: JSON for plotly.js, with the x values of each measure.

Curves of any length are thinned to `MAX_POINTS` points, so a case takes some hundred kilobytes.
Smoothing comes before thinning: the means are the same as in the PNG plots.
"""

import html
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from plotly.subplots import make_subplots

from bertds.report.curves import (
    COLOURS,
    METRICS,
    Curve,
    Panel,
    axis_limits,
    bits_panel,
    collect_curves,
    extremes,
    metric_panels,
    needs_log_axis,
    place_label,
    smoothed,
)
from bertds.report.formatting import NO_VALUE, time_unit
from bertds.report.run_data import MEASURES, ArmRun, Floats, Measure, Series
from bertds.report.tables import best_cells, state_of

__all__ = ["MAX_POINTS", "chart_data"]
MAX_POINTS = 800
MAX_POINTS_WITH_MARKERS = 30
SIGNIFICANT_DIGITS = 6
ROW_PIXELS = 300
DASHES = ("solid", "dash", "dot")
INK, GREY, LINE, GRID = "#1c2430", "#5b6675", "#b9c2cc", "#e8ebef"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
X_AXES: dict[Measure, tuple[str, str, str]] = {
    "step": ("optimizer steps", "~s", ",.0f"),
    "epoch": ("epochs", "~g", ".2f"),
    "tokens": ("tokens, padding excluded", "~s", ",.0f"),
    "seconds": ("time since the start", "~g", ".2f"),
}
"""Label, tick format and hover format by measure."""
HOVER_FORMATS = {"lr": ".3~e", "tokens_per_s": ",.4~g", "grad_norm": ",.4~g"}


def chart_data(arms: Sequence[ArmRun], *, with_bits: bool = False) -> dict[str, Any]:
    """Build the figure of a case; empty if no arm has logged a metric.

    Args:
        arms: The arms.
        with_bits: Whether to draw bits per character first.

    Returns:
        "data", "layout": the figure; its traces have no x but `meta`, [curve] or [curve, point].
        "x": the x values by measure and curve.
        "axes": the settings of the x axes by measure.
    """
    panels = [
        *([bits_panel(arms, "step")] if with_bits else []),
        *metric_panels(arms, "loss", "step"),
        *metric_panels(arms, "acc", "step"),
        Panel(key="lr", title="learning rate", curves=collect_curves(arms, "lr", "step")),
        Panel(
            key="tokens_per_s",
            title="throughput",
            unit="tokens/s, padding excluded",
            curves=collect_curves(arms, "tokens_per_s", "step"),
            smooth=True,
        ),
        Panel(
            key="grad_norm",
            title="gradient norm",
            unit="before clipping",
            curves=collect_curves(arms, "grad_norm", "step"),
            smooth=True,
        ),
    ]
    panels = [panel for panel in panels if panel.curves]
    if not panels:
        return {}
    layout = _layout(panels)
    traces = []
    for arm in arms:  # a legend entry for all traces of the arm
        entry = {"x": [None], "y": [None], "mode": "lines", "line": _line(arm.colour, 3)}
        traces.append(entry | {"name": _legend_text(arm), "legendgroup": arm.name})
    points: list[tuple[Series, Sequence[int]]] = []
    for position, panel in enumerate(panels):
        subplot = str(position + 1) if position else ""
        layout[f"yaxis{subplot}"] |= _y_axis(panel)
        _add_baselines(layout, panel, subplot)
        for curve in panel.curves:
            arm = arms[curve.arm]
            names = {"name": html.escape(arm.name), "legendgroup": arm.name, "showlegend": False}
            names |= {"xaxis": f"x{subplot}", "yaxis": f"y{subplot}"}
            if (lead := arm.lead(panel.key)) is not None:
                y = smoothed(lead.values) if panel.smooth else lead.values
                kept = extremes(y, MAX_POINTS)
                traces.append(_lead_trace(curve, y[kept], len(points)) | names)
                points.append((lead, kept))
            kept = extremes(curve.y, MAX_POINTS)
            traces += [trace | names for trace in _traces(panel, curve, kept, len(points))]
            points.append((arm.series(panel.key), kept))
    x, axes = {}, {}
    for measure in MEASURES:
        reached = [arm.reached(measure) for arm in arms]
        if not np.isnan(reached).all():
            unit, axes[measure] = _x_axis(measure, float(np.nanmax(reached)) or 1.0)
            x[measure] = [_rounded(series.at[measure][kept] / unit) for series, kept in points]
    return {"data": traces, "layout": layout, "x": x, "axes": axes}


def _layout(panels: Sequence[Panel]) -> dict[str, Any]:
    """Subplots in rows of two that share their x range."""
    rows = math.ceil(len(panels) / 2)
    height = ROW_PIXELS * rows
    cells: list[dict[str, Any] | None] = [{} for _ in panels] + [None] * (len(panels) % 2)
    figure = make_subplots(
        rows,
        2,
        specs=[cells[2 * row : 2 * row + 2] for row in range(rows)],
        subplot_titles=[
            f'<b>{html.escape(panel.title)}</b>  <span style="color:{GREY}">{panel.unit}</span>'
            for panel in panels
        ],
        horizontal_spacing=0.07,
        vertical_spacing=90 / height,
    )
    axis = {"gridcolor": GRID, "zeroline": False, "showline": True, "linecolor": LINE}
    axis |= {"ticks": "outside", "tickcolor": LINE, "ticklen": 4, "automargin": True}
    figure.update_xaxes(axis, matches="x")
    figure.update_yaxes(axis)
    figure.update_annotations(font_size=13)
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 12, "color": INK},
        margin={"l": 50, "r": 10, "t": 60, "b": 40},
        hovermode="x unified",
        showlegend=True,
        legend={
            "orientation": "h",
            "y": 1 + 28 / height,  # above the titles, also if it has several rows
            "yanchor": "bottom",
            "uirevision": "legend",  # hidden arms stay hidden when the x axis changes
        },
    )
    layout: dict[str, Any] = figure.to_plotly_json()["layout"]
    return layout


def _legend_text(arm: ArmRun) -> str:
    """The name of an arm, its best validation metrics, and its state if it is not done."""
    loss, accuracy, state = *(best_cells(arm, f"{key}/valid")[0] for key in METRICS), state_of(arm)
    notes = [
        arm.origin,
        f"best loss {loss}" if loss != NO_VALUE else "",
        f"best acc {accuracy}" if accuracy != NO_VALUE else "",
        state if state != "done" else "",
    ]
    text = ", ".join(filter(None, notes))
    return html.escape(f"{arm.name} ({text})" if text else arm.name)


def _line(colour: int, width: float) -> dict[str, Any]:
    dash = DASHES[colour // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[colour % len(COLOURS)], "dash": dash, "width": width}


def _lead_trace(curve: Curve, y: Floats, number: int) -> dict[str, Any]:
    """The run that an arm branches from, as a thin dashed line."""
    line = {"color": COLOURS[curve.colour % len(COLOURS)], "dash": "dash", "width": 1}
    trace = {"meta": [number], "y": _rounded(y), "mode": "lines", "line": line}
    return trace | {"hoverinfo": "skip"}


def _traces(
    panel: Panel, curve: Curve, kept: Sequence[int], number: int
) -> Iterator[dict[str, Any]]:
    """The raw curve behind its mean, the curve itself, its best point, and the point of failure."""
    values = smoothed(curve.y) if panel.smooth else curve.y
    if curve.band is not None:
        low, high = map(smoothed, curve.band) if panel.smooth else curve.band
        edge: dict[str, Any] = {"meta": [number], "mode": "lines", "hoverinfo": "skip"}
        edge["line"] = _line(curve.colour, 0)
        pale = f"{COLOURS[curve.colour % len(COLOURS)]}33"  # a fifth of the colour
        yield {**edge, "y": _rounded(low[kept])}
        yield {**edge, "y": _rounded(high[kept]), "fill": "tonexty", "fillcolor": pale}
    y, raw = values[kept], curve.y[kept]
    value_format = HOVER_FORMATS.get(panel.key, ".4f")
    line: dict[str, Any] = {
        "meta": [number],
        "y": _rounded(y),
        "mode": "lines+markers" if len(y) <= MAX_POINTS_WITH_MARKERS else "lines",
        "line": _line(curve.colour, 1.9),
        "marker": {"size": 4.5},
        "hovertemplate": f"%{{y:{value_format}}}",
    }
    if not np.array_equal(y, raw, equal_nan=True):
        line["customdata"] = _rounded(raw)
        line["hovertemplate"] += (
            f' <span style="color:{GREY}">(as logged %{{customdata:{value_format}}})</span>'
        )
        faint = {"line": _line(curve.colour, 1), "opacity": 0.22, "hoverinfo": "skip"}
        yield {"meta": [number], "y": _rounded(raw), "mode": "lines", **faint}
    yield line
    colour = COLOURS[curve.colour % len(COLOURS)]
    finite = np.flatnonzero(np.isfinite(y))
    marks = []
    if panel.best != "none":
        best = finite[(np.argmin if panel.best == "min" else np.argmax)(y[finite])]
        ring = {"symbol": "circle", "size": 9, "color": "white"}
        marks.append((int(best), ring | {"line": {"color": colour, "width": 2}}))
    if curve.failed:
        cross = {"symbol": "x", "size": 10, "color": colour}
        marks.append((int(finite[-1]), cross | {"line": {"color": "white", "width": 1}}))
    for point, marker in marks:
        shape = {"mode": "markers", "marker": marker, "hoverinfo": "skip"}
        yield {"meta": [number, point], "y": _rounded(y[[point]]), **shape}


def _x_axis(measure: Measure, end: float) -> tuple[float, dict[str, Any]]:
    """The unit of the x axis in steps, epochs, tokens or seconds, and its settings."""
    label, ticks, hover = X_AXES[measure]
    title, name, unit = label, label, 1.0
    if measure == "seconds":
        name, unit = time_unit(end)
        title = f"{label} ({name})"
    return unit, {
        "title": {"text": title, "standoff": 6, "font": {"size": 12, "color": GREY}},
        "tickformat": ticks,
        "hoverformat": hover,
        "unifiedhovertitle": {"text": f"%{{x:{hover}}} {name}"},
        "range": [-0.01 * end / unit, 1.02 * end / unit],
    }


def _y_axis(panel: Panel) -> dict[str, Any]:
    """Metrics from where their curves settle, rates from zero or logarithmically."""
    if panel.key == "lr" and needs_log_axis([curve.y for curve in panel.curves]):
        return {"type": "log", "dtick": "D2", "exponentformat": "e"}
    if panel.key == "lr":
        return {"rangemode": "tozero", "exponentformat": "e", "minexponent": 2}
    if panel.key in ("tokens_per_s", "grad_norm"):
        return {"rangemode": "tozero", "exponentformat": "SI", "minexponent": 3}
    limits = axis_limits([panel])
    return {} if limits is None else {"range": _rounded(np.array(limits))}


def _add_baselines(layout: dict[str, Any], panel: Panel, subplot: str) -> None:
    """A dashed line for each baseline, and its value; only that if it is outside the y axis."""
    low, high = layout[f"yaxis{subplot}"].get("range", (-math.inf, math.inf))
    place = {"xref": f"x{subplot} domain", "yref": f"y{subplot}"}
    for number, baseline in enumerate(panel.baselines):
        colour = GREY if baseline.colour is None else COLOURS[baseline.colour % len(COLOURS)]
        label = place_label(panel, baseline, low, high)
        shift = 13 * number if label.is_outside else 0  # one below the other
        line = {"color": colour, "width": 1, "dash": "dash"}
        shape = {"type": "line", "x0": 0, "x1": 1, "y0": baseline.value, "y1": baseline.value}
        layout.setdefault("shapes", []).append({**place, **shape, "line": line})
        note: dict[str, Any] = {
            "text": html.escape(label.text),
            "font": {"size": 10, "color": colour},
            "x": 1 if label.side == "right" else 0,
            "y": label.y,
            "xanchor": label.side,
            "yanchor": "bottom" if label.is_above else "top",
            "yshift": shift if label.is_above else -shift,
            "showarrow": False,
        }
        layout["annotations"].append({**place, **note})


def _rounded(values: Floats) -> list[float | int | None]:
    """Round for JSON: whole numbers without a point, null for NaN and infinity."""
    rounded: list[float | int | None] = []
    for value in values.tolist():
        if not math.isfinite(value):
            rounded.append(None)
        elif value.is_integer():
            rounded.append(int(value))
        else:
            rounded.append(float(f"{value:.{SIGNIFICANT_DIGITS}g}"))
    return rounded
