"""Texts and tables of the published pages, beside the figures of each case."""

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reproduction.claims import ALIKE, FINDINGS
from benchmarks.reproduction.paired import UNITS
from benchmarks.reproduction.scaling_rule import SEEDS, VARIANTS, Variant
from benchmarks.reproduction.verdicts import Range, Result, case_verdict, count_verdicts
from bertds.config.case import list_arms
from bertds.report.context_tables import PLATEAU_NATS, final, plateau_step
from bertds.report.formatting import NO_VALUE, count, duration, table
from bertds.report.index import case_directories
from bertds.report.run_data import MEASURES, ArmRun, load_arms

ROOT = Path(__file__).resolve().parents[2]
TITLE = "Reproduction of the reference experiments"
INTRODUCTION = (
    "The reference experiments are eleven comparisons of BERT-like encoders. One person ran them by hand in four "
    "weeks on two GPUs, over 1.6 million sentences each of Korean and English. Here the same cases are trained at "
    "a small scale, on other text, with three seeds. The question is which of the eleven findings hold. Each case "
    "is a file in `ds_configs/`, for example `case4.json`."
)
SOURCES = (
    "Both texts are in the public domain: Korean film reviews (NSMC, `e9t/nsmc`) and English sentences from 76 "
    "works, most of them novels (Standard Ebooks), 400,000 lines each. The order of arms can be compared with the "
    "reference; the values cannot."
)
RULE = (
    "One rule (`benchmarks/reproduction/scaling_rule.py`) scales every case down. It divides widths by 4, so that "
    "the layers have a sixteenth of the weights. It divides attention heads by 2, BPE merges by 8, batch sizes by "
    "16, and epochs and schedules by 8. Training uses one in 128 of the sentences, or more in a case of few epochs. "
    "Positions are rotary, except in case 12. Depth, weight decay, learning rates, masking, and the ratios of "
    "vocabularies and batch sizes are unchanged. The rule was fixed on 2026-11-29, before the first seed, after "
    "the pilot runs that the file lists. Each arm trains in one process with one CPU thread, in fp32."
)
SEED_NOTE = (
    "A seed changes the initial weights, the data order, the dropout and the training masks. All seeds are validated "
    "on the same masks. Times are processor times, because the machine was shared."
)
TEST = (
    "Two arms are compared at their last step, sequence by sequence, on the same validation masks. The 95 % interval "
    "covers the variation over validation sequences and over seeds (`benchmarks/reproduction/paired.py` has the "
    "method). A comparison is decided if the interval excludes zero. "
    f"Arms count as alike if the interval is within {ALIKE} nats of zero. Nats cannot be compared between "
    "vocabularies, because they are over different tokens; bits per character can. A comparison is undecided, "
    f"whatever its interval, if no run of either arm comes {PLATEAU_NATS} nats below the unigram baseline: then none "
    "has learned to use context."
)
EXPORT = (
    "Cases with `bert-prenorm` and rotary positions have no Hugging Face class, so these runs cannot be exported. "
    "The case files in `ds_configs/` keep learned positions and can be."
)
COMMANDS = """```sh
python -m benchmarks.reproduction.train_all --ko F,… --en F,…   # train all cases, or resume
python -m benchmarks.reproduction.publish                       # write these pages from the committed figures
make record-check                                               # regenerate and compare these pages
```"""
INTERACTIVE = (
    "`python -m benchmarks.reproduction.publish --check --report DIR` writes `DIR/seed0/record.html`, one page "
    "with all curves. It can zoom, and it also shows learning rate, throughput and gradient norm."
)
FOREST = "images/effects.png"
FOREST_CAPTION = (
    "All comparisons. To the right of zero the first arm is better, as the reference found in cases 1 to 11. Bars "
    "are 95 % intervals, small lines the seeds. If effects are large, the axis of nats is logarithmic beyond 0.1."
)
AXES = {"step": "steps", "epoch": "epochs", "tokens": "tokens", "seconds": "time"}


def index_page(runs: Path, results: Sequence[Result]) -> str:
    """The first page: what was asked, what came out, all comparisons, and the method."""
    blocks = [f"# {TITLE}", INTRODUCTION, _headline(results), _findings(results)]
    if any(result.verdict != "not trained yet" for result in results):
        blocks += [f"![{FOREST_CAPTION}]({FOREST})", f"*{FOREST_CAPTION}*"]
    blocks += ["## All comparisons", _number_of(results), comparison_table(results)]
    blocks += ["## Method", SOURCES, RULE, SEED_NOTE, TEST, EXPORT, COMMANDS]
    blocks += [*_costs(runs), *_missing(runs), "## Interactive plots", INTERACTIVE]
    return "\n\n".join(blocks) + "\n"


def case_summary(results: Sequence[Result], case: str) -> str:
    """What was asked in a case and what came out, with its comparisons."""
    own = [result for result in results if result.comparison.case == case]
    blocks = []
    if case in FINDINGS:
        verdict = case_verdict(results, case)
        blocks.append(
            f"**The reference found:** {FINDINGS[case]}\n\n**Here:** {_sentence(verdict)}."
        )
    else:
        blocks.append("This case is not part of the reference.")
    return "\n\n".join([*blocks, comparison_table(own), TEST])


def seeds_section(runs: Path, case: str) -> str:
    """The figures of each arm over all seeds, and beside them those of other variants."""
    arms = {seed.name: _load(runs / seed.name / case) for seed in SEEDS}
    names = dict.fromkeys(arm.name for each in arms.values() for arm in each)
    rows = [
        _seed_row(name, [arm for each in arms.values() for arm in each if arm.name == name])
        for name in names
    ]
    header = ["arm", "seeds", "valid loss", "valid acc", "acc at [MASK]", "under unigram"]
    header += ["under neighbour", "steps to leave the plateau"]
    note = (
        "Final values: the mean over the seeds, and the range. The loss is also given as nats under the unigram and "
        "the neighbour baseline; a negative number is above it. An arm has left the plateau when its loss is "
        f"{PLATEAU_NATS} nats under the unigram baseline."
    )
    blocks = ["## Figures of all seeds", note, table(header, rows)]
    for variant in VARIANTS:
        if variant not in SEEDS and case in variant.cases:
            blocks += _variant(runs, case, variant, arms[SEEDS[0].name])
    return "\n\n".join(blocks)


def comparison_table(results: Sequence[Result]) -> str:
    """One row a comparison: at equal costs, at the end with the interval, and the verdict."""
    header = ["case", "comparison", *(f"at equal {name}" for name in AXES.values())]
    header += ["at the end", "95 % interval", "unit", "verdict"]
    return table(header, [_row(result) for result in results])


def _row(result: Result) -> list[str]:
    comparison, effect = result.comparison, result.effect
    cells = [comparison.case.removeprefix("case"), comparison.text]
    cells += [
        _range(result.at_equal[cost]) if cost in result.at_equal else NO_VALUE for cost in MEASURES
    ]
    if effect is None:
        cells += [NO_VALUE, NO_VALUE]
    else:
        has_interval = math.isfinite(effect.low)
        cells.append(f"{effect.mean:+.3f}")
        cells.append(f"{effect.low:+.3f} to {effect.high:+.3f}" if has_interval else NO_VALUE)
    return [*cells, UNITS[comparison.measure], _shown_verdict(result)]


def _shown_verdict(result: Result) -> str:
    if result.verdict == "not trained yet":
        seeds = 0 if result.effect is None else len(result.effect.by_seed)
        return f"{seeds} of {len(SEEDS)} seeds"
    if not result.reads_context:
        return "undecided: neither reads context"
    if result.comparison.is_original or result.verdict == "undecided":
        return result.verdict
    return {"agrees": "yes", "disagrees": "no"}[result.verdict]


def _range(values: Range) -> str:
    if values.low == values.high:
        return f"{values.mean:+.3f}"
    return f"{values.mean:+.3f} [{values.low:+.3f}, {values.high:+.3f}]"


def _headline(results: Sequence[Result]) -> str:
    """The number of findings with each verdict."""
    numbers = count_verdicts(results)
    parts = [f"{_sentence(verdict)}: {numbers[verdict]}" for verdict in numbers if numbers[verdict]]
    return f"**Of the {len(FINDINGS)} findings of the reference — {'; '.join(sorted(parts))}.**"


def _sentence(verdict: str) -> str:
    return {
        "holds": "confirmed",
        "holds in part": "confirmed in part",
        "does not hold": "not confirmed: the opposite was found",
        "undecided": "undecided",
        "not trained yet": "not trained yet with all arms and seeds",
    }[verdict]


def _findings(results: Sequence[Result]) -> str:
    """The original's findings, each with what came out here."""
    rows = [
        [_link(case), finding, _sentence(case_verdict(results, case))]
        for case, finding in FINDINGS.items()
    ]
    others = [_link(case) for case in SEEDS[0].cases if case not in FINDINGS]
    more = f"Cases beyond the reference: {', '.join(others)}."
    return f"{table(('case', 'the reference found', 'here'), rows)}\n\n{more}"


def _link(case: str) -> str:
    return f"[{case.removeprefix('case')}]({case}.md)"


def _number_of(results: Sequence[Result]) -> str:
    tested = [result for result in results if result.verdict != "not trained yet"]
    note = (
        "A positive number is the amount by which the first arm is better: lower in loss or in bits per "
        "character, higher in accuracy. The columns `at equal …` are interpolated between validations, and give "
        f"mean and range over the seeds. {len(tested)} of {len(results)} comparisons have been tested."
    )
    if tested:
        note += (
            f" If none of the differences were real, about {len(tested) / 20:.1f} of them would be decided by "
            "chance."
        )
    return note


def _seed_row(name: str, arms: Sequence[ArmRun]) -> list[str]:
    losses = [final(arm, "loss/valid") for arm in arms]
    cells = [f"`{name}`", f"{len(arms)}", _mean_range(losses, 3)]
    for key in ("acc/valid", "acc_mask/valid"):
        cells.append(_mean_range([final(arm, key) for arm in arms], 4))
    for baseline in ("unigram", "neighbour"):
        gains = [
            arm.baselines().get(baseline, {}).get("loss", math.nan) - loss
            for arm, loss in zip(arms, losses, strict=True)
        ]
        cells.append(_mean_range(gains, 3))
    steps = [plateau_step(arm) for arm in arms]
    left = [step for step in steps if math.isfinite(step)]
    shown = f"{count(sum(left) / len(left))}" if left else NO_VALUE
    return [
        *cells,
        shown if len(left) in (0, len(steps)) else f"{shown} ({len(left)} of {len(steps)})",
    ]


def _mean_range(values: Sequence[float], digits: int) -> str:
    if not values or any(map(math.isnan, values)):
        return NO_VALUE
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def _variant(runs: Path, case: str, variant: Variant, shipped: Sequence[ArmRun]) -> list[str]:
    """The final values of a variant beside those of the first seed."""
    others = {arm.name: arm for arm in _load(runs / variant.name / case)}
    rows = [
        [f"`{arm.name}`"]
        + [
            _mean_range([final(each, key)], digits)
            for key, digits in (("loss/valid", 3), ("acc/valid", 4))
            for each in (arm, others[arm.name])
        ]
        + [count(plateau_step(others[arm.name]))]
        for arm in shipped
        if arm.name in others
    ]
    if not rows:
        return []
    header = ["arm", "valid loss, seed 0", f"valid loss, {variant.name}"]
    header += ["valid acc, seed 0", f"valid acc, {variant.name}", "steps to leave the plateau"]
    return [f"### {variant.meaning[0].upper()}{variant.meaning[1:]}", table(header, rows)]


def _load(case_dir: Path) -> list[ArmRun]:
    """Load the arms of a case; an empty list if it was not trained."""
    return load_arms(case_dir) if case_dir.is_dir() else []


def _costs(runs: Path) -> list[str]:
    """Sum up the processor time that the runs of each variant took."""
    rows = []
    for variant in VARIANTS:
        cases = case_directories(runs / variant.name)
        own = [arm for case in cases for arm in _load(case) if not arm.same_as]
        if own:
            total = duration(sum(arm.reached("seconds") for arm in own))
            rows.append([variant.name, variant.meaning, f"{len(own)}", total])
    return [table(("variant", "description", "runs", "processor time"), rows)]


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
            lines.append(f"- {variant.name}: {', '.join(cases)}")
    return ["Not trained yet, or only in part:", "\n".join(lines)] if lines else []
