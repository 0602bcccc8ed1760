"""Tables of the downstream scores: what `python -m bertds finetune` left beside each run."""

from collections.abc import Sequence

from bertds.report.formatting import count, table
from bertds.report.run_data import ArmRun
from bertds.runs.downstream_scores import DownstreamScores, Trial, shown

__all__ = ["downstream_tables"]
NOTE = (
    "Downstream scores on validation data after fine-tuning: mean ± standard deviation over the seeds of "
    "fine-tuning, at the learning rate that is best on the same data. For arms that are means over seeds of "
    "pre-training, over the trials of all these runs."
)


def downstream_tables(arms: Sequence[ArmRun]) -> list[str]:
    """A note, and a table of all tasks; nothing if no arm has been fine-tuned."""
    names = sorted(
        {name for arm in arms for each in arm.members or (arm,) for name in each.downstream}
    )
    rows = [row for name in names for arm in arms for row in _rows(name, arm)]
    header = ("task", "arm", "weights", "step", "rate", "trials", "scores")
    return [NOTE, table(header, rows)] if rows else []


def _rows(name: str, arm: ArmRun) -> list[list[str]]:
    """The row of an arm, if one of its runs has results of this name."""
    found = [each.downstream[name] for each in arm.members or (arm,) if name in each.downstream]
    if not found:
        return []
    trials = [trial for scores in found for trial in scores.best()]
    metrics = [name for name in found[0].metrics if all(name in trial.scores for trial in trials)]
    return [
        [
            name,
            f"`{arm.name}`",
            _shared(found, "weights"),
            _shared(found, "step"),
            _rates(trials),
            f"{len(trials)}",
            ", ".join(f"{metric} {shown(trials, metric)}" for metric in metrics),
        ]
    ]


def _shared(found: Sequence[DownstreamScores], key: str) -> str:
    """A setting of all results; several values if they differ."""
    values = dict.fromkeys(scores.settings.get(key) for scores in found)
    return ", ".join(
        count(value) if value is None or isinstance(value, int) else str(value) for value in values
    )


def _rates(trials: Sequence[Trial]) -> str:
    return ", ".join(f"{rate:g}" for rate in sorted({trial.rate for trial in trials}))
