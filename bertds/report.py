"""The drawn record of a case: `record.md` and the curves of its arms, from run directories alone.

Nothing is kept between two calls but the verdict, which a person writes: what stands from
`**Verdict:**` on in an earlier record stands in the next one. The same files give the same bytes.
A run may be going on meanwhile, may have failed, or may not have begun: the record says so.
A case of a few arms takes seconds, most of them for drawing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bertds.drawing.arms import Arm, load_arms
from bertds.drawing.plots import Curve, Panel, draw_panels, smoothing_window
from bertds.drawing.tables import comparison, figures, one_line, validation_sets
from bertds.replacing import replacing

__all__ = ["Report", "write_report"]

NO_VERDICT = b"**Verdict:** *to be written.*\n"
NOTE = "<!-- Drawn by `python -m bertds report`, which keeps what stands from the verdict on. -->"
# Learning rates further apart than this are drawn on a logarithmic axis.
LOG_RATIO = 8.0

Axis = Literal["steps", "time"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was written: the record, and the plots in the order in which it shows them."""

    record: Path
    plots: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A drawn plot: the end of its name (`caseN_<name>.png`), what it shows, and its bytes."""

    name: str
    caption: str
    png: bytes


def write_report(case_dir: Path) -> Report:
    """Draws a case's record and plots into its directory, each file replaced as a whole.

    Raises:
        ValueError: If the directory is no case's, or a file of a run is broken.
    """
    case_dir = case_dir.absolute()
    arms = load_arms(case_dir)
    record = case_dir / "record.md"
    verdict = _kept_verdict(record)
    paths = {case_dir / f"{case_dir.name}_{plot.name}.png": plot for plot in _draw(arms)}
    shown = [f"![{plot.caption}]({path.name})\n\n*{plot.caption}*" for path, plot in paths.items()]
    sections = [
        f"# {_title(case_dir.name, arms)}",
        NOTE,
        *comparison(arms),
        *figures(arms),
        *(["## Curves", _legend(arms), *shown] if shown else []),
        "## Verdict",
    ]
    for path, plot in paths.items():
        with replacing(path) as file:
            file.write(plot.png)
    with replacing(record) as file:
        file.write(("\n\n".join(sections) + "\n\n").encode() + verdict)
    return Report(record=record, plots=tuple(paths))


def _title(name: str, arms: Sequence[Arm]) -> str:
    """The case's own title; an arm that is another case's run has that case's."""
    own = [arm.case.get("config", {}).get("bertds", {}) for arm in arms if not arm.same_as]
    title = next((block["title"] for block in own if block.get("title")), "")
    return one_line(f"{name}: {title}" if title else name)


def _kept_verdict(record: Path) -> bytes:
    """What a person wrote: an earlier record's bytes from the verdict's line to the end."""
    try:
        earlier = record.read_bytes()
    except FileNotFoundError:
        return NO_VERDICT
    written = re.search(rb"^\*\*Verdict:\*\*", earlier, re.MULTILINE)
    return earlier[written.start() :] if written else NO_VERDICT


def _draw(arms: Sequence[Arm]) -> list[Plot]:
    """Loss, accuracy and learning rate against steps, then loss and accuracy against time."""
    sets = validation_sets(arms)
    return [
        *_draw_figure("loss", "loss (nats per masked token)", arms, sets, "steps"),
        *_draw_figure("acc", "accuracy on masked tokens", arms, sets, "steps"),
        *_draw_rates(arms),
        *_draw_figure("loss", "loss (nats per masked token)", arms, sets, "time"),
        *_draw_figure("acc", "accuracy on masked tokens", arms, sets, "time"),
    ]


def _draw_figure(
    figure: Literal["loss", "acc"], label: str, arms: Sequence[Arm], sets: Sequence[str], x: Axis
) -> list[Plot]:
    """Training beside validation, and each validation set if there are several; none if empty."""
    best: Literal["min", "max"] = "min" if figure == "loss" else "max"
    several = sets if len(sets) > 1 else []
    panels = [
        Panel(title="training", curves=_curves(arms, f"{figure}/train", x), smooth=True),
        Panel(
            title="validation, all sets" if several else "validation",
            curves=_curves(arms, f"{figure}/valid", x),
            best=best,
        ),
        *(
            Panel(
                title=f"validation, {one}",
                curves=_curves(arms, f"{figure}/valid/{one}", x),
                best=best,
            )
            for one in several
        ),
    ]
    if not any(panel.curves for panel in panels):
        return []
    word = "Loss" if figure == "loss" else "Accuracy"
    against = "optimizer steps" if x == "steps" else "wall time since each arm's start"
    return [
        Plot(
            name=figure if x == "steps" else f"{figure}_relative",
            caption=f"{word} in training and validation against {against}.",
            png=draw_panels(panels, x=x, y="figures", y_label=label),
        )
    ]


def _draw_rates(arms: Sequence[Arm]) -> list[Plot]:
    curves = _curves(arms, "lr", "steps")
    if not curves:
        return []
    peaks = [peak for curve in curves if (peak := float(np.nanmax(curve.y, initial=0.0))) > 0]
    png = draw_panels(
        [Panel(title="", curves=curves, nested=True)],
        x="steps",
        y="rates, log" if peaks and max(peaks) > LOG_RATIO * min(peaks) else "rates",
        y_label="learning rate",
    )
    return [Plot(name="lr", caption="Learning rate against optimizer steps.", png=png)]


def _curves(arms: Sequence[Arm], key: str, x: Axis) -> tuple[Curve, ...]:
    """A curve for each arm that logged a finite value of the figure, and when."""
    curves = []
    for number, arm in enumerate(arms):
        series = arm.series(key)
        at = series.at["step" if x == "steps" else "seconds"]
        known = np.isfinite(at)
        if np.isfinite(series.values[known]).any():
            curves.append(
                Curve(
                    label=f"{arm.name} (failed)" if arm.failed else arm.name,
                    arm=number,
                    x=at[known],
                    y=series.values[known],
                    failed=arm.failed,
                )
            )
    return tuple(curves)


def _legend(arms: Sequence[Arm]) -> str:
    """How to read the plots, with the widths that were smoothed over."""
    points = [len(arm.series("loss/train").values) for arm in arms if arm.lines]
    windows = sorted({smoothing_window(count) for count in points} - {1})
    text = "Curves are as logged. "
    if windows:
        width = " to ".join(dict.fromkeys(str(width) for width in (windows[0], windows[-1])))
        text = (
            f"Training curves are running means over {width} log points, the raw curve faint "
            "behind them; validation curves are as measured. "
        )
    cross = ", a cross the end of a failed arm" if any(arm.failed for arm in arms) else ""
    return (
        f"{text}A ring marks each arm's best validation figure{cross}. The axes leave out the "
        "first fall of the curves."
    )
