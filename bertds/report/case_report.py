"""The drawn record of a case, from run directories alone: `record.md`, its plots, `record.html`.

Nothing is kept between two calls but the verdict, which a person writes: what stands from
`**Verdict:**` on in an earlier record stands in the next one. The same files give the same bytes.
A run may be going on meanwhile, may have failed, or may not have begun: the record says so.
A case of a few arms takes seconds, most of them for drawing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np

from bertds.io.atomic import atomic_write
from bertds.report.chart_data import chart_data
from bertds.report.curves import Curve, Panel, are_far_apart, smoothing_window
from bertds.report.formatting import one_line
from bertds.report.html import Section, page
from bertds.report.png import draw_panels
from bertds.report.run_data import ArmRun, load_arms
from bertds.report.tables import comparison, figures, validation_sets

__all__ = ["CaseRecord", "Report", "write_report"]
NO_VERDICT = b"**Verdict:** *to be written.*\n"
NOTE = "<!-- Drawn by `python -m bertds report`, which keeps what stands from the verdict on. -->"
TO_ZOOM = (
    "[record.html](record.html) has them to zoom, against steps, epochs, tokens and time, with "
    "throughput and gradient norm."
)


Axis = Literal["steps", "time"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was written: the record, its page, and the plots in the order in which it shows them."""

    record: Path
    page: Path
    plots: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A drawn plot: the end of its name (`caseN_<name>.png`), what it shows, and its bytes."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseRecord:
    """What a case's record is drawn from."""

    case_dir: Path
    title: str
    arms: Sequence[ArmRun]
    verdict: bytes
    """From its `**Verdict:**` on, as a person left it."""

    @classmethod
    def load(cls, case_dir: Path) -> "CaseRecord":
        """Reads the runs of a case, and the verdict of its earlier record.

        Raises:
            ValueError: If the directory is no case's, or a file of a run is broken.
        """
        case_dir = case_dir.absolute()
        arms = load_arms(case_dir)
        verdict = _kept_verdict(case_dir / "record.md")
        return cls(case_dir=case_dir, title=_title(case_dir.name, arms), arms=arms, verdict=verdict)

    def section(self) -> Section:
        """The case as a page shows it."""
        return Section(
            name=self.case_dir.name,
            title=self.title,
            verdict="" if self.verdict == NO_VERDICT else self.verdict.decode(errors="replace"),
            legend=_legend(self.arms),
            charts=chart_data(self.arms),
            figures=figures(self.arms)[1:],
            comparison=comparison(self.arms)[1:],
        )

    def write(self, section: Section) -> Report:
        """Draws record, page and plots into the case's directory, each file replaced as a whole."""
        plots = {
            self.case_dir / f"{self.case_dir.name}_{plot.name}.png": plot
            for plot in _draw(self.arms)
        }
        for path, plot in plots.items():
            _replace(path, plot.png)
        record, drawn = self.case_dir / "record.md", self.case_dir / "record.html"
        _replace(record, self._markdown(plots))
        _replace(drawn, page(self.title, [section]))
        return Report(record=record, page=drawn, plots=tuple(plots))

    def _markdown(self, plots: Mapping[Path, Plot]) -> bytes:
        shown = [
            f"![{plot.caption}]({quote(path.name)})\n\n*{plot.caption}*"
            for path, plot in plots.items()
        ]
        sections = [
            f"# {self.title}",
            NOTE,
            *comparison(self.arms),
            *figures(self.arms),
            *(["## Curves", f"{_legend(self.arms)} {TO_ZOOM}", *shown] if shown else []),
            "## Verdict",
        ]
        return ("\n\n".join(sections) + "\n\n").encode() + self.verdict


def write_report(case_dir: Path) -> Report:
    """Draws a case's record, page and plots into its directory.

    Raises:
        ValueError: If the directory is no case's, or a file of a run is broken.
    """
    case = CaseRecord.load(case_dir)
    return case.write(case.section())


def _replace(path: Path, content: bytes) -> None:
    with atomic_write(
        path, concurrent_writers=True
    ) as file:  # the arms of a case may end at the same time
        file.write(content)


def _title(name: str, arms: Sequence[ArmRun]) -> str:
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


def _draw(arms: Sequence[ArmRun]) -> list[Plot]:
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
    figure: Literal["loss", "acc"], label: str, arms: Sequence[ArmRun], sets: Sequence[str], x: Axis
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


def _draw_rates(arms: Sequence[ArmRun]) -> list[Plot]:
    curves = _curves(arms, "lr", "steps")
    if not curves:
        return []
    png = draw_panels(
        [Panel(title="", curves=curves, nested=True)],
        x="steps",
        y="rates, log" if are_far_apart([curve.y for curve in curves]) else "rates",
        y_label="learning rate",
    )
    return [Plot(name="lr", caption="Learning rate against optimizer steps.", png=png)]


def _curves(arms: Sequence[ArmRun], key: str, x: Axis) -> tuple[Curve, ...]:
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


def _legend(arms: Sequence[ArmRun]) -> str:
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
