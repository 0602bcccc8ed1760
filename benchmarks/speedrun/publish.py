"""Writes the tables and the plot of the committed runs: `python -m benchmarks.speedrun.publish`."""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.common.tables import RESULTS
from benchmarks.speedrun.setting import ACCURACY_THRESHOLD, LOSS_THRESHOLD, RUNS, TUNED_RATES
from bertds.report.formatting import table

Figures = dict[str, Any]
_MAIN = {"ours-best": "bertds", "peer-tuned": "run_mlm, tuned", "peer-default": "run_mlm, defaults"}
_PAGE, _PLOT = RESULTS / "speedrun.md", RESULTS / "speedrun.png"


def publish() -> None:
    """Write `results/speedrun.md` and, if there are full runs, `results/speedrun.png`."""
    runs = [json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))]
    full = _by_arm(run for run in runs if run["rate"] is None)
    parts = ["# Speedrun", _INTRODUCTION, _goal(full), _comparison(full), _tuning(runs)]
    if full.keys() & _MAIN.keys():
        parts.insert(2, "![Loss and accuracy against processor time](speedrun.png)")
        _plot(full)
    RESULTS.mkdir(exist_ok=True)
    _PAGE.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


_INTRODUCTION = (
    "Processor minutes of one core until a validation loss, and until an accuracy after fine-tuning. Both "
    "programs train on the same text with the same tokenizer, models of equal size, in fp32, one process "
    "with one thread each. `python -m benchmarks.speedrun` makes all figures. Times between two scored "
    "models are interpolated. Values are the mean over seeds, and the range."
)


def minutes_until(run: Figures, key: str, threshold: float | None) -> float | None:
    """Processor minutes until a figure is reached for the first time; None if it never is.

    Args:
        run: The figures of a run.
        key: `loss`, which falls, or `accuracy`, which rises.
        threshold: The value.
    """
    if threshold is None:
        return None
    sign = -1 if key == "loss" else 1
    before: tuple[float, float] | None = None
    for mark in run["marks"]:
        minutes, value = mark["core_minutes"], sign * mark[key]
        if value >= sign * threshold:
            if before is None or value == before[1]:
                return float(minutes)
            part = (sign * threshold - before[1]) / (value - before[1])
            return before[0] + part * (minutes - before[0])
        before = (minutes, value)
    return None


def _by_arm(runs: Any) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = defaultdict(list)
    for run in runs:
        found[f"{run['program']}-{run['arm']}"].append(run)
    return dict(found)


def _goal(full: Mapping[str, Sequence[Figures]]) -> str:
    """The ratios that the speedrun is about."""
    if not {"ours-best", "peer-tuned"} <= full.keys():
        return ""
    lines = []
    for key, threshold in (("loss", LOSS_THRESHOLD), ("accuracy", ACCURACY_THRESHOLD)):
        ours, peers = (
            [minutes_until(run, key, threshold) for run in full[arm]]
            for arm in ("ours-best", "peer-tuned")
        )
        if threshold is None or None in ours or None in peers:
            lines.append(f"- {key}: not reached by both programs yet")
            continue
        ratio = statistics.mean(ours) / statistics.mean(peers)
        lines.append(f"- {key} {threshold:g}: ours takes {ratio:.2f} of the tuned peer's time")
    return "\n".join(lines)


def _comparison(full: Mapping[str, Sequence[Figures]]) -> str:
    header = ["run", "seeds", "parameters", "minutes in all", "final loss", "final accuracy"]
    header += ["minutes to the loss", "minutes to the accuracy"]
    names = [*(name for name in _MAIN if name in full), *sorted(full.keys() - _MAIN.keys())]
    rows = []
    for name in names:
        runs, last = full[name], [run["marks"][-1] for run in full[name]]
        reached = [
            [minutes_until(run, key, threshold) for run in runs]
            for key, threshold in (("loss", LOSS_THRESHOLD), ("accuracy", ACCURACY_THRESHOLD))
        ]
        rows.append(
            [
                _MAIN.get(name, name.replace("ours-", "bertds: ")),
                str(len(runs)),
                f"{runs[0]['parameters']:,}",
                _spread([mark["core_minutes"] for mark in last], ".1f"),
                _spread([mark["loss"] for mark in last], ".3f"),
                _spread([mark["accuracy"] for mark in last], ".4f"),
                *(_spread(minutes, ".1f") for minutes in reached),
            ]
        )
    return table(header, rows) if rows else "No run is finished."


def _spread(values: Sequence[float | None], form: str) -> str:
    found = [value for value in values if value is not None]
    if len(found) < len(values) or not found:
        return "not reached"
    mean = f"{statistics.mean(found):{form}}"
    return mean if len(found) == 1 else f"{mean} ({min(found):{form}} to {max(found):{form}})"


def _tuning(runs: Sequence[Figures]) -> str:
    trials = [run for run in runs if run["rate"] is not None]
    if not trials:
        return ""
    rows = []
    for name, group in sorted(_by_arm(trials).items()):
        losses = {run["rate"]: run["marks"][-1]["loss"] for run in group}
        minutes = sum(run["marks"][-1]["core_minutes"] for run in group)
        cells = [f"{losses[rate]:.3f}" if rate in losses else "" for rate in TUNED_RATES]
        rows.append([_MAIN.get(name, name), *cells, f"{minutes:.1f}"])
    header = ["loss at the end of a quarter", *(f"{rate:g}" for rate in TUNED_RATES), "minutes"]
    return f"## Learning rates that were tried\n\n{table(header, rows)}"


def _plot(full: Mapping[str, Sequence[Figures]]) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    thresholds = {"loss": LOSS_THRESHOLD, "accuracy": ACCURACY_THRESHOLD}
    for axis, (key, threshold) in zip(axes, thresholds.items(), strict=True):
        for number, (name, label) in enumerate(_MAIN.items()):
            for place, run in enumerate(full.get(name, [])):
                minutes = [mark["core_minutes"] for mark in run["marks"]]
                values = [mark[key] for mark in run["marks"]]
                axis.plot(
                    minutes,
                    values,
                    marker="o",
                    markersize=3,
                    color=f"C{number}",
                    label="" if place else label,
                )
        if threshold is not None:
            axis.axhline(threshold, color="grey", linestyle="--", linewidth=1)
        axis.set_xscale("log")
        axis.set_xlabel("processor minutes")
        axis.set_ylabel("validation loss (nats)" if key == "loss" else "accuracy after fine-tuning")
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend()
    figure.savefig(_PLOT, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    publish()
