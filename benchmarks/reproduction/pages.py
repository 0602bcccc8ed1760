"""Texts and tables of the published pages, beside the figures of each case.

The `spread` is the largest minus the smallest final value of three seeds. The difference between two arms is
`decided` if it exceeds twice the spread. All verdicts follow this rule. Values at an equal cost (steps, epochs,
tokens or time) are interpolated linearly between two validations.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.reproduction.scaling_rule import SEEDED, VARIANTS
from bertds.config.case import list_arms
from bertds.report.formatting import NO_VALUE, duration, table
from bertds.report.index import case_directories
from bertds.report.run_data import MEASURES, ArmRun, load_arms

ROOT = Path(__file__).resolve().parents[2]
SEEDS = tuple(variant.name for variant in VARIANTS if variant.name.startswith("seed"))
Key = Literal["loss/valid", "acc/valid"]
DIGITS: dict[Key, int] = {"loss/valid": 3, "acc/valid": 4}
NAMES: dict[Key, str] = {"loss/valid": "valid loss", "acc/valid": "valid acc"}
COSTS = {"step": "steps", "epoch": "epochs", "tokens": "tokens", "seconds": "time"}
Seeds = Sequence[Sequence[ArmRun]]
"""The arms of each seed."""
Corpus = Mapping[str, Mapping[str, int]]
"""The sizes of each dataset: sequences, tokens, characters."""
INTRODUCTION = (
    "The reference experiments are eleven comparisons that one person ran by hand in four weeks on two GPUs, "
    "over 1.6 million sentences each of Korean and English. This project began with them. The reproduction "
    "trains the same cases at a small scale on other text. Both sources are in the public domain: Korean film "
    "reviews (NSMC, `e9t/nsmc`) and English sentences from 76 works, most of them novels (Standard Ebooks), "
    "400,000 lines each. The order of arms can be compared with the reference; the values cannot."
)
CASES = "Each page has the settings, figures, plots and verdict of one case."
RULE = (
    "One rule (`benchmarks/reproduction/scaling_rule.py`) scales every case down. Widths, merges, epochs and "
    "schedules are a quarter (the layers have a sixteenth of the weights). Attention heads are a half, batch "
    "sizes an eighth. Training uses one in 128 of the sentences, validation one in 32. Runs therefore have a "
    "sixty-fourth of the steps of the full cases. Depth, weight decay, learning rates, masking, and the ratios "
    "of vocabularies and batch sizes are unchanged. Each arm trains in one process with one CPU thread, in "
    "fp32; two arms run side by side on two cores. Times are from a shared machine. Seeds differ in weights, "
    "order and dropout; the masks are the same for all seeds."
)
COMMANDS = """```sh
python -m benchmarks.reproduction.train_all --ko F,… --en F,…          # train all cases, or resume
python -m benchmarks.reproduction.publish --runs runs/record           # copy the metrics, write these pages
make record-check                                                      # regenerate and compare these pages
```"""
INTERACTIVE = (
    "`python -m benchmarks.reproduction.publish --check --report DIR` writes `DIR/seed0/record.html`, one page "
    "with all curves. It can zoom, and it also shows learning rate, throughput and gradient norm."
)


def index_page(runs: Path, summary: str, index: str) -> str:
    """Return the first page: introduction, the hand-written summary, all cases, and the method."""
    blocks = ["# Reproduction of the reference experiments", INTRODUCTION, summary.strip()]
    blocks += ["## Cases", CASES, index.strip(), "## Interactive plots", INTERACTIVE]
    blocks += ["## Method", RULE, COMMANDS, *_costs(runs), *_missing(runs)]
    return "\n\n".join([*filter(None, blocks), "## Spread of seeds", *_spreads(runs)]) + "\n"


def _costs(runs: Path) -> list[str]:
    """Sum up the time that the runs of each variant took."""
    rows = []
    for variant in VARIANTS:
        cases = case_directories(runs / variant.name)
        own = [arm for case in cases for arm in _load(case) if not arm.same_as]
        if own:
            total = duration(sum(arm.reached("seconds") for arm in own))
            rows.append([variant.name, variant.meaning, f"{len(own)}", total])
    return [table(("variant", "description", "runs", "total run time"), rows)]


def _missing(runs: Path) -> list[str]:
    """List the cases that are not trained completely, one line per variant."""
    lines = []
    for variant in VARIANTS:
        cases = [
            case
            for case in variant.cases
            for arms in [list_arms(ROOT / f"ds_configs/{case}.json")]
            if not all((runs / variant.name / case / a.name / "case.json").exists() for a in arms)
        ]
        if cases:
            lines.append(f"- {variant.name} ({variant.meaning}): {', '.join(cases)}")
    return ["Not trained yet, or only in part:", "\n".join(lines)] if lines else []


def _spreads(runs: Path) -> list[str]:
    """Return the spread of each case with several seeds."""
    rows = []
    for case in SEEDED:
        spreads = {key: _spread(runs, case, key) for key in NAMES}
        if all(math.isfinite(value) for value in spreads.values()):
            rows.append([case, *(f"{value:.{DIGITS[key]}f}" for key, value in spreads.items())])
    if not rows:
        return ["No case has been trained with three seeds yet, so every verdict is undecided."]
    note = (
        "The spread is the largest minus the smallest final value of three seeds, for the arm where it is "
        "largest. A difference between arms is decided if it exceeds twice the spread. A case with one seed "
        f"uses the largest spread of {', '.join(SEEDED)}, and is undecided until all three are trained."
    )
    return [note, table(("case", *(f"spread of {name}" for name in NAMES.values())), rows)]


def case_sections(runs: Path, case: str, corpus: Corpus) -> str:
    """Return the sections between the figures of a case and its verdict, with a blank line at the end."""
    seeds = [_load(runs / seed / case) for seed in SEEDS]
    if len({tuple(arm.name for arm in arms) for arms in seeds}) > 1:
        seeds = seeds[:1]  # not all seeds have trained the same arms
    sections = ["## Differences between the arms", *_decisions(runs, case, seeds)]
    if case in SEEDED:
        sections += _by_seed(runs, case)
    if case == "case8":
        sections += _bits_per_character(seeds, corpus)
    for variant in VARIANTS:
        if variant.name not in SEEDS and case in variant.cases:
            others = {arm.name: arm for arm in _load(runs / variant.name / case)}
            pairs = [(arm, others[arm.name]) for arm in seeds[0] if arm.name in others]
            if pairs:
                sections += [f"### {variant.meaning[0].upper()}{variant.meaning[1:]}"]
                sections += [_beside_shipped(variant.name, pairs)]
    return "\n\n".join(sections) + "\n\n"


def _load(case_dir: Path) -> list[ArmRun]:
    """Load the arms of a case; an empty list if it was not trained."""
    return load_arms(case_dir) if case_dir.is_dir() else []


def _decisions(runs: Path, case: str, seeds: Seeds) -> list[str]:
    """Compare each arm with the best one at equal costs, by loss and by accuracy."""
    blocks = []
    averaged = f" (mean of {len(seeds)} seeds)" if len(seeds) > 1 else ""
    for key, metric in NAMES.items():
        spreads = [_spread(runs, each, key) for each in ([case] if case in SEEDED else SEEDED)]
        # A case whose arms learn nothing has almost no spread, so all seeded cases must be known.
        known = all(math.isfinite(spread) for spread in spreads)
        limit = 2 * max(spreads) if known else math.inf
        columns = [_compare_at_equal(seeds, key, measure, limit) for measure in MEASURES]
        rows = [[f"`{arm.name}`", *(column[arm.name] for column in columns)] for arm in seeds[0]]
        rule = "It is undecided: the spread of seeds is not known yet."
        if known:
            rule = (
                f"It is decided if it exceeds {limit:.{DIGITS[key]}f}, twice the spread of seeds."
            )
        note = f"{metric.capitalize()}: difference from the best arm{averaged}. {rule}"
        header = ("arm", *(f"at equal {COSTS[measure]}" for measure in MEASURES))
        blocks += [note, table(header, rows)]
    return blocks


def _compare_at_equal(seeds: Seeds, key: Key, measure: Any, limit: float) -> dict[str, str]:
    """Return each arm's cell: its difference from the best arm at the cost that all arms reached."""
    by_arm: dict[str, list[float]] = {}
    for arms in seeds:
        cost = min(arm.reached(measure) for arm in arms)
        for arm in arms:
            by_arm.setdefault(arm.name, []).append(arm.series(key).value_at(measure, cost))
    means = {name: float(np.mean(values)) for name, values in by_arm.items()}
    finite = [mean for mean in means.values() if math.isfinite(mean)]
    best = (min if key == "loss/valid" else max)(finite, default=math.nan)
    cells, digits = {}, DIGITS[key]
    for name, mean in means.items():
        difference = mean - best
        if not math.isfinite(mean):
            cells[name] = NO_VALUE
        elif difference:
            decision = "decided" if abs(difference) > limit else "undecided"
            cells[name] = f"{difference:+.{digits}f} {decision}"
        else:
            cells[name] = f"best, {best:.{digits}f}"
    return cells


def _spread(runs: Path, case: str, key: Key) -> float:
    """Return the largest spread of the arms that all seeds trained; NaN if there are none."""
    spreads = [
        np.ptp(values)
        for values in _final_by_seed(runs, case, key).values()
        if len(values) == len(SEEDS)
    ]
    return float(max(spreads, default=math.nan))


def _final_by_seed(runs: Path, case: str, key: Key) -> dict[str, list[float]]:
    """Return each arm's final value for every seed that trained it."""
    by_arm: dict[str, list[float]] = {}
    for seed in SEEDS:
        for arm in _load(runs / seed / case):
            by_arm.setdefault(arm.name, []).append(_final(arm, key))
    return by_arm


def _final(arm: ArmRun, key: Key) -> float:
    return arm.series(key).value_at("step", math.inf)


def _by_seed(runs: Path, case: str) -> list[str]:
    rows = []
    for key, metric in NAMES.items():
        for name, values in _final_by_seed(runs, case, key).items():
            cells = [f"{value:.{DIGITS[key]}f}" for value in values]
            cells += [NO_VALUE] * (len(SEEDS) - len(values))
            both = [np.mean(values), np.ptp(values)] if len(values) == len(SEEDS) else []
            cells += [f"{value:.{DIGITS[key]}f}" for value in both] or [NO_VALUE] * 2
            rows.append([f"`{name}`", metric, *cells])
    seeds = (f"seed {number}" for number in range(len(SEEDS)))
    return ["### Seeds", table(("arm", "final", *seeds, "mean", "spread"), rows)]


def _bits_per_character(seeds: Seeds, corpus: Corpus) -> list[str]:
    """Convert losses over different vocabularies to a common unit."""
    rows = []
    for number, arm in enumerate(seeds[0]):
        (name,) = (each["name"] for each in arm.case["config"]["bertds"]["data"]["valid"].values())
        per_token = corpus[name]["characters"] / corpus[name]["tokens"]
        losses = [_final(arms[number], "loss/valid") for arms in seeds]
        bits = [loss / math.log(2) / per_token for loss in losses]
        baseline = arm.case["resolved"]["guess_without_context"]["loss"] / math.log(2) / per_token
        row = [f"`{arm.name}`", f"{np.mean(losses):.3f}", f"{per_token:.3f}"]
        row += [f"{np.mean(bits):.4f}", f"{np.ptp(bits):.4f}" if len(bits) > 1 else NO_VALUE]
        rows.append([*row, f"{baseline:.4f}", f"{baseline - np.mean(bits):.4f}"])
    note = (
        "The arms have different vocabularies, so their accuracies and losses are over different tokens. A "
        "smaller vocabulary has shorter tokens, which are easier to predict. Bits per character (loss / ln 2 / "
        "characters per token of the whole validation set) compare the arms on the same text. They are not a "
        "likelihood: the arms predict masked characters from different numbers of unmasked neighbours. The "
        "unigram baseline differs between arms too; the gain is what the encoder adds to it."
    )
    header = ("arm", "valid loss", "characters/token", "bits per character", "spread")
    header += ("unigram baseline", "gain")
    return ["### Bits per character", note, table(header, rows)]


def _beside_shipped(variant: str, pairs: Sequence[tuple[ArmRun, ArmRun]]) -> str:
    """Return a table of final values as shipped and in another variant."""
    rows = [
        [f"`{shipped.name}`"]
        + [f"{_final(arm, key):.{DIGITS[key]}f}" for key in NAMES for arm in (shipped, other)]
        for shipped, other in pairs
    ]
    names = [f"{name}, {which}" for name in NAMES.values() for which in ("as shipped", variant)]
    return table(["arm", *names], rows)
