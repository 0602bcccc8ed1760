"""What the published record says beside each case's own figures: spread, costs, other variants.

`spread` is the largest less the smallest of three seeds. A difference of two arms is `decided` where it
is more than twice that, the rule of every verdict. Figures at a cost are on the line between two
validations.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from record_rule import SEEDED, VARIANTS

from bertds.config.case import list_arms
from bertds.report.formatting import NO_VALUE, duration, table
from bertds.report.index import case_directories
from bertds.report.run_data import MEASURES, ArmRun, load_arms

ROOT = Path(__file__).resolve().parent.parent
SEEDS = tuple(one.name for one in VARIANTS if one.name.startswith("seed"))
DIGITS = {"loss/valid": 3, "acc/valid": 4}
NAMES = {"loss/valid": "valid loss", "acc/valid": "valid acc"}
Key = Literal["loss/valid", "acc/valid"]
Corpus = Mapping[str, Mapping[str, int]]


def readme(runs: Path, summary: str, index: str) -> str:
    """The record's first page: what a person wrote of all cases, the index, and how it was made."""
    whose = (
        "The record is what one person wrote down of eleven comparisons, made by hand in four weeks on two "
        "GPUs, over 1.6 million sentences each of Korean and English; this project began with it. Here its "
        "cases run on other text, both sources in the public domain: reviews of films in Korean (NSMC, "
        "`e9t/nsmc`) and sentences of 76 works in English, most of them novels (Standard Ebooks), 400,000 "
        "lines each. So orders of arms can be compared with the record's, figures cannot."
    )
    curves = (
        "A case's page has its settings, figures, plots and verdict; [record.html](record.html), opened "
        "in a browser, has all curves to zoom."
    )
    rule = (
        "At a small scale, by one rule for every case (`benchmarks/record_rule.py`): widths a quarter "
        "(a sixteenth of the weights in the layers), heads a half, merges, epochs and schedules a quarter, "
        "batch an eighth, one in 128 of the record's sentences (of validation one in 32), so a "
        "sixty-fourth of the steps of the full cases; depth, decay, rates, masking and the ratios of "
        "vocabularies and batch sizes as shipped. One process of one CPU thread an arm, two arms side by "
        "side on two cores, fp32. Times are a shared machine's. Seeds differ in weights, order and dropout; "
        "the draw of the masks is the same in all of them."
    )
    made = (
        "Made by `python benchmarks/record.py --ko F,… --en F,…` and "
        "`python benchmarks/record_publish.py --runs runs/record`; `make record-check` draws all of "
        "it again from the committed `metrics.jsonl.gz` and fails on a difference."
    )
    blocks = ["# The record", whose, summary.strip(), "## Cases", curves, index.strip()]
    blocks += ["## How it was made", rule, made, *_costs(runs), *_missing(runs)]
    return "\n\n".join([*filter(None, blocks), "## The spread of seeds", *_seeds(runs)]) + "\n"


def _costs(runs: Path) -> list[str]:
    """How long each variant's own runs took."""
    rows = []
    for variant in VARIANTS:
        cases = case_directories(runs / variant.name)
        own = [arm for case in cases for arm in _arms(case) if not arm.same_as]
        if own:
            took = duration(sum(arm.reached("seconds") for arm in own))
            rows.append([variant.name, variant.meaning, f"{len(own)}", took])
    return [table(("variant", "what it is", "runs", "time, one after another"), rows)]


def _missing(runs: Path) -> list[str]:
    """What is still to be trained, a line for each variant that is not whole."""
    lines = []
    for variant in VARIANTS:
        cases = [case for case in variant.cases if not _is_whole(runs / variant.name, case)]
        if cases:
            lines.append(f"- {variant.name} ({variant.meaning}): {', '.join(cases)}")
    return ["Not trained yet, or not all arms of it:", "\n".join(lines)] if lines else []


def _is_whole(runs: Path, case: str) -> bool:
    arms = list_arms(ROOT / f"ds_configs/{case}.json")
    return all((runs / case / arm.name / "case.json").exists() for arm in arms)


def _seeds(runs: Path) -> list[str]:
    """The spread of each case of several seeds."""
    rows = []
    for case in SEEDED:
        spreads = {key: _spread_of(runs, case, key) for key in ("loss/valid", "acc/valid")}
        if all(math.isfinite(value) for value in spreads.values()):
            rows.append([case, *(f"{value:.{DIGITS[key]}f}" for key, value in spreads.items())])
    if not rows:
        return ["No case has been trained with three seeds yet, so every verdict is undecided."]
    note = (
        "The spread: largest less smallest final figure of three seeds, of the arm where that is "
        "greatest. Arms differ where they are further apart than twice that; a case of one seed takes "
        f"the greatest spread of {', '.join(SEEDED)}, and is undecided until all of them are there."
    )
    return [note, table(("case", *(f"spread of {name}" for name in NAMES.values())), rows)]


def more_figures(runs: Path, case: str, corpus: Corpus) -> str:
    """The sections between a case's figures and its verdict, each with an end of line."""
    seeds = _trained_seeds(runs, case)
    sections = ["## Whether the arms differ", *_decisions(runs, case, seeds)]
    if case in SEEDED:
        sections += _by_seed(runs, case)
    if case == "case8":
        sections += _bits_per_character(seeds, corpus)
    for variant in VARIANTS:
        if variant.name not in SEEDS and case in variant.cases:
            sections += _beside(runs, variant.name, variant.meaning, case, seeds[0])
    return "\n\n".join(sections) + "\n\n"


def _trained_seeds(runs: Path, case: str) -> list[Sequence[ArmRun]]:
    """The arms of each seed, if all seeds trained the same ones, or else of the first seed alone."""
    seeds = [_arms(runs / seed / case) for seed in SEEDS]
    names = {tuple(arm.name for arm in arms) for arms in seeds}
    return seeds if len(names) == 1 else seeds[:1]


def _arms(case_dir: Path) -> list[ArmRun]:
    """None where the case was not trained."""
    return load_arms(case_dir) if case_dir.is_dir() else []


def _decisions(runs: Path, case: str, seeds: Sequence[Sequence[ArmRun]]) -> list[str]:
    """Each arm beside the best one at equal costs, by loss and by accuracy."""
    blocks = []
    of_seeds = f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ""
    for key in ("loss/valid", "acc/valid"):
        limit = 2 * _spread_for(runs, case, key)
        columns = [_column(seeds, key, measure, limit) for measure in MEASURES]
        rows = [[f"`{arm.name}`", *(one[arm.name] for one in columns)] for arm in seeds[0]]
        known = f"{limit:.{DIGITS[key]}f}" if math.isfinite(limit) else "not known yet"
        note = f"less the best arm's{of_seeds}, decided beyond twice the spread, {known}."
        header = ("arm", *(f"at equal {_WORD[one]}" for one in MEASURES))
        blocks += [f"{NAMES[key].capitalize()} {note}", table(header, rows)]
    return blocks


_WORD = {"step": "steps", "epoch": "epochs", "tokens": "tokens", "seconds": "time"}


def _column(
    seeds: Sequence[Sequence[ArmRun]], key: Key, measure: Any, limit: float
) -> dict[str, str]:
    """What is said of each arm at an equal cost."""
    figures = _at_equal(seeds, key, measure)
    known = [figure for figure in figures.values() if math.isfinite(figure)]
    best = (min if key == "loss/valid" else max)(known, default=math.nan)
    cells = {}
    for name, figure in figures.items():
        if not math.isfinite(figure):
            cells[name] = NO_VALUE
            continue
        apart = figure - best
        word = "decided" if abs(apart) > limit else "undecided"
        digits = DIGITS[key]
        cells[name] = f"{apart:+.{digits}f} {word}" if apart else f"best, {best:.{digits}f}"
    return cells


def _at_equal(seeds: Sequence[Sequence[ArmRun]], key: Key, measure: Any) -> dict[str, float]:
    """Each arm's figure at the cost that all arms reached; the mean over the seeds."""
    found: dict[str, list[float]] = {}
    for arms in seeds:
        cost = min(arm.reached(measure) for arm in arms)
        for arm in arms:
            found.setdefault(arm.name, []).append(arm.series(key).value_at(measure, cost))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _final(arm: ArmRun, key: Key) -> float:
    return arm.series(key).value_at("step", math.inf)


def _spread_for(runs: Path, case: str, key: Key) -> float:
    """A case's own spread, or else the greatest of all; infinite until that is known.

    A case whose arms learn nothing has next to no spread, so all of the seeded ones must be there.
    """
    spreads = [_spread_of(runs, one, key) for one in ([case] if case in SEEDED else SEEDED)]
    return max(spreads) if all(math.isfinite(one) for one in spreads) else math.inf


def _spread_of(runs: Path, case: str, key: Key) -> float:
    """Over the arms that all seeds trained to the end."""
    spreads = [
        np.ptp(values) for values in _seeded(runs, case, key).values() if len(values) == len(SEEDS)
    ]
    return float(max(spreads, default=math.nan))


def _seeded(runs: Path, case: str, key: Key) -> dict[str, list[float]]:
    """An arm's final figure of each seed that trained it."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        for arm in _arms(runs / seed / case):
            found.setdefault(arm.name, []).append(_final(arm, key))
    return found


def _by_seed(runs: Path, case: str) -> list[str]:
    rows = []
    for key in ("loss/valid", "acc/valid"):
        for name, values in _seeded(runs, case, key).items():
            shown = [f"{value:.{DIGITS[key]}f}" for value in values]
            shown += [NO_VALUE] * (len(SEEDS) - len(values))
            both = [np.mean(values), np.ptp(values)] if len(values) == len(SEEDS) else []
            shown += [f"{one:.{DIGITS[key]}f}" for one in both] or [NO_VALUE] * 2
            rows.append([f"`{name}`", NAMES[key], *shown])
    header = (
        "arm",
        "at the end",
        *(f"seed {number}" for number in range(len(SEEDS))),
        "mean",
        "spread",
    )
    return ["### Seeds", table(header, rows)]


def _bits_per_character(seeds: Sequence[Sequence[ArmRun]], corpus: Corpus) -> list[str]:
    """Loss over token sets that differ, brought to one measure."""
    rows = []
    for number, arm in enumerate(seeds[0]):
        (name,) = (one["name"] for one in arm.case["config"]["bertds"]["data"]["valid"].values())
        size = corpus[name]
        a_token = size["characters"] / size["tokens"]
        losses = [_final(arms[number], "loss/valid") for arms in seeds]
        bits = [loss / math.log(2) / a_token for loss in losses]
        guess = arm.case["resolved"]["guess_without_context"]["loss"] / math.log(2) / a_token
        row = [f"`{arm.name}`", f"{np.mean(losses):.3f}", f"{a_token:.3f}", f"{np.mean(bits):.4f}"]
        row += [f"{np.ptp(bits):.4f}" if len(bits) > 1 else NO_VALUE]
        rows.append([*row, f"{guess:.4f}", f"{guess - np.mean(bits):.4f}"])
    note = (
        "Accuracy and loss are over other tokens in each arm: a smaller vocabulary has shorter ones, "
        "which are easier. Bits per character (loss / ln 2 / characters a token, those of the whole "
        "validation set) compares them on the same text; masked characters all the same are guessed "
        "from more or fewer neighbours that are not masked, so it is no likelihood. Nor is the guess that "
        "sees no context the same in each: beside it stands what the encoder gains over it."
    )
    header = ("arm", "valid loss", "characters a token", "bits per character", "spread")
    header += ("without context", "gain")
    return ["### Bits per character", note, table(header, rows)]


def _beside(runs: Path, variant: str, meaning: str, case: str, arms: Sequence[ArmRun]) -> list[str]:
    """Final figures of another variant beside the case's own."""
    others = {arm.name: arm for arm in _arms(runs / variant / case)}
    rows = []
    for arm in arms:
        if arm.name in others:
            other = others[arm.name]
            row = [f"`{arm.name}`"]
            for key in ("loss/valid", "acc/valid"):
                row += [f"{_final(each, key):.{DIGITS[key]}f}" for each in (arm, other)]
            rows.append(row)
    if not rows:
        return []
    header = ["arm"]
    header += [f"{name}, {which}" for name in NAMES.values() for which in ("as shipped", variant)]
    return [f"### {meaning[0].upper()}{meaning[1:]}", table(header, rows)]
