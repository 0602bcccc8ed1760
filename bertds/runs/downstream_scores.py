"""The results of fine-tuning, `RUN/finetune/NAME.json`: what was trained, and the scores of each trial.

A trial is one fine-tuning, with one learning rate and one seed. The file is replaced after each, so a
stopped command loses one trial. The learning rate is chosen on the same validation data that the scores
are from, over all seeds: they are validation scores.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertds.io.json_files import read_json_object, write_json

DIRECTORY = "finetune"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One fine-tuning."""

    rate: float
    seed: int
    scores: dict[str, float]
    """The metrics by name."""
    seconds: float

    @property
    def score(self) -> float:
        """The mean of the metrics."""
        return statistics.fmean(self.scores.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class DownstreamScores:
    """All trials of one model on one task."""

    settings: dict[str, Any]
    """What all trials share: task, weights, data, epochs, batch."""
    trials: tuple[Trial, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics."""
        return [*self.trials[0].scores] if self.trials else []

    def rates(self) -> list[float]:
        """The learning rates, ascending."""
        return sorted({trial.rate for trial in self.trials})

    def of_rate(self, rate: float) -> list[Trial]:
        """The trials with one rate, by seed."""
        return sorted((t for t in self.trials if t.rate == rate), key=lambda trial: trial.seed)

    def best(self) -> list[Trial]:
        """The trials of the rate with the best mean score, of the rates with the most seeds."""
        by_rate = [self.of_rate(rate) for rate in self.rates()]
        return max(by_rate, key=lambda each: (len(each), statistics.fmean(t.score for t in each)))

    def has(self, rate: float, seed: int) -> bool:
        """Whether this trial is done."""
        return any((trial.rate, trial.seed) == (rate, seed) for trial in self.trials)

    def write(self, path: Path) -> None:
        """Replace the file. It also has the best rate, with means and deviations, for readers of JSON."""
        trials = self.best() if self.trials else []
        best = (
            {
                "rate": trials[0].rate,
                "seeds": [trial.seed for trial in trials],
                "mean": {name: spread_of(trials, name)[0] for name in self.metrics},
                "standard_deviation": {name: spread_of(trials, name)[1] for name in self.metrics},
            }
            if trials
            else None
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            path,
            {
                "settings": self.settings,
                "chosen": "the rate with the best mean of the metrics on the validation data over all "
                "seeds; these are validation scores",
                "best": best,
                "trials": [asdict(trial) for trial in self.trials],
            },
        )


def read_scores(path: Path) -> DownstreamScores:
    """Read a file.

    Raises:
        ValueError: It is not such a file.
    """
    content = read_json_object(path)
    try:
        trials = tuple(Trial(**trial) for trial in content["trials"])
        if not all(trial.scores for trial in trials):
            raise ValueError("a trial has no scores")
        return DownstreamScores(settings=dict(content["settings"]), trials=trials)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not have the scores of a fine-tuning ({error}): delete it, and run "
            "python -m bertds finetune again"
        ) from error


def read_all_scores(run_dir: Path) -> dict[str, DownstreamScores]:
    """The scores of a run by name, of all tasks that have a finished trial."""
    paths = sorted((run_dir / DIRECTORY).glob("*.json"))
    found = {path.stem: read_scores(path) for path in paths}
    return {name: scores for name, scores in found.items() if scores.trials}


def spread_of(trials: Sequence[Trial], metric: str) -> tuple[float, float | None]:
    """Mean and standard deviation of a metric; no deviation for one trial."""
    values = [trial.scores[metric] for trial in trials]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def shown(trials: Sequence[Trial], metric: str) -> str:
    """Mean and standard deviation as text."""
    mean, deviation = spread_of(trials, metric)
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
