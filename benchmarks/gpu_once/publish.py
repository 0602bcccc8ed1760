"""Writes the page about a GPU, its tables and plots, from the lines of `benchmarks.gpu_once`.

    python -m benchmarks.gpu_once.publish [--lines FILE] [--page FILE] [--check]

The part of the page between `<!-- generated: gpu -->` and `<!-- end -->` is replaced. The plots go
into the directory `images` beside the page's directory. --check writes nothing, and exits with code 1
if the page differs.
"""

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu_once.wheels import ROOT
from benchmarks.gpu_once.worker import REASON
from bertds.metrics.flops import peak_flops
from bertds.report.formatting import table

LINES = ROOT / "benchmarks" / "results" / "gpu_once.jsonl"
PAGE = ROOT / "docs" / "development" / "gpu.md"
PART = re.compile(r"(<!-- generated: gpu -->\n).*(<!-- end -->\n)", re.DOTALL)
NOTHING = "No GPU has run it yet.\n"
TRIAL = "**A trial with tiny models. Its figures say nothing about a GPU.**\n\n"
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """The lines of the last run, by the name of the part."""

    lines: dict[str, Line]

    @classmethod
    def read(cls, path: Path) -> "Measured | None":
        """Read the last run of a file; None without a file."""
        if not path.is_file():
            return None
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        starts = [number for number, line in enumerate(lines) if line["part"] == "start"]
        return cls({line["part"]: line for line in lines[starts[-1] :]})

    def results(self, prefix: str) -> dict[str, Any]:
        """Return the results of the parts that ended well and whose names begin with `prefix`."""
        return {
            name: line["result"]
            for name, line in self.lines.items()
            if name.startswith(prefix) and line.get("status") == "ok"
        }


def machine_text(measured: Measured) -> str:
    """Return date, device, versions and command."""
    start = measured.lines["start"]
    text = f"{start['date'][:10]}, `{start['command']}`.\n"
    for versions in measured.results("versions").values():
        text += ", ".join(f"{name} {value}" for name, value in versions.items() if value) + ".\n"
    for peak in measured.results("peak").values():
        rates = (f"{name} {rate / 1e12:.3g}" for name, rate in peak["flops"].items())
        text += f"\nMatrix products of random numbers, TFLOP/s: {', '.join(rates)}. "
        text += f"Copies: {peak['bytes_per_second'] / 1e9:,.0f} GB/s read and written.\n"
    return text


def rate(result: Line) -> float:
    """Return the median tokens/s of the repeats."""
    return median(repeat["tokens_per_s"] for repeat in result["repeats"])


def steps_table(measured: Measured) -> str:
    """Return the table of the training steps."""
    results = measured.results("steps/")
    peaks = measured.results("peak").get("peak", {"flops": {}})["flops"]
    device = measured.results("versions").get("versions", {}).get("device", "")
    sheet = peak_flops(device)
    rows = []
    for name, result in results.items():
        _, model, accumulation, program = name.split("/")
        ours = results.get(f"steps/{model}/{accumulation}/eager", result)
        flops = rate(result) * ours.get("flops_per_token", float("nan"))
        rates = [repeat["tokens_per_s"] for repeat in result["repeats"]]
        waits = result.get("waits")
        rows.append(
            [
                *(model, accumulation, program),
                f"{rate(result):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})",
                f"{flops / peaks['bf16']:.1%}" if "bf16" in peaks else "",
                f"{flops / sheet:.1%}" if sheet else "",
                *(_number(result.get(key)) for key in ("peak_gib", "planned_gib")),
                "" if waits is None else str(sum(waits.values())),
            ]
        )
    header = ["model", "accumulation", "program", "tokens/s", "MFU, measured peak"]
    header += ["MFU, data sheet", "peak GiB", "plan GiB", "waits"]
    return table(header, rows)


def training_table(measured: Measured) -> str:
    """Return the table of precisions and ZeRO stages."""
    results = measured.results("train/")
    reference = results.get("train/fp32/cpu")
    rows = []
    for name, result in results.items():
        _, precision, stage = name.split("/")
        difference = ""
        if reference is not None:
            pairs = zip(result["losses"], reference["losses"], strict=True)
            difference = f"{max(abs(ours - theirs) for ours, theirs in pairs):.1e}"
        checks = ("yes" if passed else "no" for passed in result["checks"].values())
        rows.append([precision, stage, *checks, difference])
    header = ["precision", "stage", "learns", "resumes bit-exact", "evaluates alike"]
    return table([*header, "largest difference of a loss from the CPU's"], rows)


def trace_table(measured: Measured) -> str:
    """Return the longest kernels."""
    rows = [
        [f"`{kernel['name'][:80]}`", str(kernel["count"]), f"{kernel['share']:.1%}"]
        for result in measured.results("trace/").values()
        for kernel in result["longest"]
    ]
    return table(["kernel", "launches in three steps", "share of the time"], rows)


def rest_text(measured: Measured) -> str:
    """Name the parts that did not end well, and the tests."""
    text = ""
    for result in measured.results("tests").values():
        text += f"Tests marked `gpu`: {result['tests']}, of which {result['failures']} failed, "
        text += f"{result['errors']} had errors and {result['skipped']} were skipped.\n"
    for name, line in measured.lines.items():
        if line.get("status", "ok") != "ok":
            reason = line.get("result", {}).get(REASON) or f"exit code {line['code']}"
            text += f"\n- `{name}`: {line['status']} ({reason})\n"
    return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def draw(measured: Measured, images: Path) -> list[str]:
    """Draw tokens/s, and memory if it was measured; return the names of the images."""
    import matplotlib as mpl

    mpl.use("agg")
    results = measured.results("steps/")
    rates = {name.removeprefix("steps/"): rate(result) for name, result in results.items()}
    drawn = [_bars(images / "gpu_tokens.png", "tokens/s", {"": rates})] if rates else []
    known = {name: line for name, line in results.items() if "peak_gib" in line}
    if known:
        series = {
            label: {name.removeprefix("steps/"): line[key] for name, line in known.items()}
            for label, key in (("measured", "peak_gib"), ("plan", "planned_gib"))
        }
        drawn.append(_bars(images / "gpu_memory.png", "GiB", series))
    return drawn


def _bars(path: Path, unit: str, series: dict[str, dict[str, float]]) -> str:
    """Draw horizontal bars, one series beside the other."""
    from matplotlib.figure import Figure

    names = list(next(iter(series.values())))
    figure = Figure(figsize=(8, 1 + 0.3 * len(names) * len(series)), layout="constrained")
    axes = figure.subplots()
    for number, (label, values) in enumerate(series.items()):
        height = 0.8 / len(series)
        places = [row + number * height for row in range(len(names))]
        axes.barh(places, [values[name] for name in names], height, label=label or None)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    if len(series) > 1:
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    return path.name


def render(measured: Measured | None, images: list[str]) -> str:
    """Return the generated part of the page."""
    if measured is None:
        return NOTHING
    sections = [
        (TRIAL if measured.lines["start"]["tiny"] else "") + machine_text(measured),
        "## Training steps\n\n" + steps_table(measured),
        *(f"![{name}](../images/{name})" for name in images),
        "## Precisions and stages\n\n" + training_table(measured),
        "## Longest kernels\n\n" + trace_table(measured),
        "## Tests and missing parts\n\n" + rest_text(measured),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def main() -> int:
    """Write or check the page; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, default=LINES)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    measured = Measured.read(options.lines)
    images: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) if options.check else options.page.parent.parent / "images"
        if measured is not None:
            images = draw(measured, directory)
    page = options.page.read_text(encoding="utf-8")
    part = render(measured, images)
    text = PART.sub(lambda match: f"{match[1]}{part}{match[2]}", page)
    if options.check:
        return int(text != page)
    options.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
