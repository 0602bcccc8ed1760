"""Tests the comparisons of `claims.py` on the runs of all seeds."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.reproduction.claims import ALIKE, COMPARISONS, FINDINGS, Comparison, Side
from benchmarks.reproduction.committed_runs import run_directory
from benchmarks.reproduction.paired import Effect, Measure, paired_effect, unpaired_effect
from benchmarks.reproduction.scaling_rule import SEEDS
from bertds.inference.sequence_sums import SequenceSums, read_sequence_sums
from bertds.report.context_tables import plateau_step
from bertds.report.run_data import MEASURES, ArmRun, load_arms, natural
from bertds.report.run_data import Measure as Cost

Verdict = Literal["agrees", "disagrees", "undecided", "not trained yet"]
CaseVerdict = Literal["holds", "holds in part", "does not hold", "undecided", "not trained yet"]
METRICS: Mapping[Measure, str] = {
    "nats": "loss/valid",
    "accuracy": "acc/valid",
    "bits": "bits_per_character/valid",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A value of all seeds: the mean, the least and the greatest."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Range":
        """The range of the values of each seed; NaN if one has none."""
        return cls(mean=float(np.mean(values)), low=min(values), high=max(values))


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A tested comparison; effects are positive where the left side is better."""

    comparison: Comparison
    effect: Effect | None
    """At the last step; None if a run is missing."""
    at_equal: Mapping[Cost, Range]
    """At equal steps, epochs, tokens and time; empty for two sides of one run."""
    reads_context: bool = True
    """Whether a run of either side has left the plateau: otherwise none has learned to read."""

    @property
    def verdict(self) -> Verdict:
        """Whether the interval allows the comparison, excludes it, or neither; from all seeds."""
        effect = self.effect
        if effect is None or len(effect.by_seed) < len(SEEDS):
            return "not trained yet"
        if not self.reads_context:
            return "undecided"
        if self.comparison.kind == "alike":
            if max(-effect.low, effect.high) < ALIKE:
                return "agrees"
            return "disagrees" if effect.low > ALIKE or effect.high < -ALIKE else "undecided"
        if effect.low > 0:
            return "agrees"
        return "disagrees" if effect.high < 0 else "undecided"


def test_all(runs: Path) -> list[Result]:
    """Test all comparisons on the runs of all seeds, in the order of the cases."""
    ordered = sorted(COMPARISONS, key=lambda comparison: natural(comparison.case))
    return [_test(runs, comparison) for comparison in ordered]


def case_verdict(results: Sequence[Result], case: str) -> CaseVerdict:
    """Whether what the original found in a case holds here, from its comparisons."""
    verdicts = Counter(
        result.verdict
        for result in results
        if result.comparison.case == case and result.comparison.is_original
    )
    if verdicts["not trained yet"]:
        return "not trained yet"
    if verdicts["agrees"] and not verdicts["disagrees"] and not verdicts["undecided"]:
        return "holds"
    if verdicts["agrees"]:
        return "holds in part"
    return "does not hold" if verdicts["disagrees"] else "undecided"


def count_verdicts(results: Sequence[Result]) -> Counter[CaseVerdict]:
    """The number of the original's findings with each verdict."""
    return Counter(case_verdict(results, case) for case in FINDINGS)


def _test(runs: Path, comparison: Comparison) -> Result:
    left, right = comparison.left, comparison.right
    seeds = [seed.name for seed in SEEDS]
    seeds = [each for each in seeds if all(_sums(runs, each, side) for side in (left, right))]
    if not seeds:
        return Result(comparison=comparison, effect=None, at_equal={})
    scores = [
        [SequenceSums.concatenate(_sums(runs, seed, side)) for seed in seeds]
        for side in (left, right)
    ]
    if comparison.measure != "accuracy":
        scores.reverse()  # a lower loss is better
    is_paired = left.valid_set == right.valid_set
    effect = (paired_effect if is_paired else unpaired_effect)(*scores, comparison.measure)
    return Result(
        comparison=comparison,
        effect=effect,
        at_equal={} if left.run == right.run else _at_equal(runs, comparison, seeds),
        reads_context=any(
            math.isfinite(plateau_step(_arm(runs / seed, side.run)))
            for seed in seeds
            for side in (left, right)
        ),
    )


@cache
def _sums(runs: Path, seed: str, side: Side) -> list[SequenceSums]:
    """The sums of the validation sets of one side; empty if the run is missing."""
    path = run_directory(runs / seed, side.run) / f"{side.checkpoint}.npz"
    if not path.exists():
        return []
    by_set = read_sequence_sums(path)
    return [by_set[side.valid_set]] if side.valid_set else list(by_set.values())


def _at_equal(runs: Path, comparison: Comparison, seeds: Sequence[str]) -> dict[Cost, Range]:
    """The differences at the cost that both runs reached, interpolated between validations."""
    key, sign = METRICS[comparison.measure], 1 if comparison.measure == "accuracy" else -1
    values: dict[Cost, list[float]] = {cost: [] for cost in MEASURES}
    for seed in seeds:
        arms = [_arm(runs / seed, side.run) for side in (comparison.left, comparison.right)]
        for cost in MEASURES:
            reached = min(arm.reached(cost) for arm in arms)
            left, right = (arm.series(key).value_at(cost, reached) for arm in arms)
            values[cost].append(sign * (left - right))
    ranges = {cost: Range.of(each) for cost, each in values.items()}
    return {cost: each for cost, each in ranges.items() if math.isfinite(each.mean)}


@cache
def _arm(variant: Path, run: str) -> ArmRun:
    case, _, name = run.partition("/")
    return next(arm for arm in load_arms(variant / case) if arm.name == name)
