"""Tables of what an encoder reads from context: its distance to the baselines, and what it copies.

`bertds/metrics/baselines.py` defines the baselines, `bertds/metrics/places.py` the kinds of places.
"""

import math
from collections.abc import Sequence

import numpy as np

from bertds.metrics.places import KINDS
from bertds.report.formatting import NO_VALUE, count, metric, table
from bertds.report.run_data import ArmRun

__all__ = ["PLATEAU_NATS", "context_tables", "final", "plateau_step"]
PLATEAU_NATS = 0.1
"""A model has left the plateau when its validation loss is this far under the unigram baseline."""
SEED_NOTE = (
    "Arms that differ in run.seed and masking.seed only are shown as one. Their final values: the mean over "
    "the seeds, and the least and the greatest value."
)
GAIN_NOTE = "Validation before the first step and after the last one."
BASELINE_NOTE = (
    "Nats by which the last validation loss is under each baseline; a negative number is above it. An "
    "encoder first learns only which tokens are frequent, and its loss stays on a plateau. It has left the "
    f"plateau at the first step at which the loss is {PLATEAU_NATS} nats under the unigram baseline "
    "(interpolated between validations)."
)
PLACE_NOTE = (
    "Validation accuracy at masked tokens that the encoder sees as [MASK], as a random token, or "
    "unchanged (kept). A kept token only has to be copied, so the accuracy at [MASK] shows best what the "
    "encoder has learned."
)
BITS_NOTE = (
    "The arms have different vocabularies, so their losses and accuracies are over different tokens. "
    "Bits per character compare them on the same text. They are estimated from the masked tokens."
)


def context_tables(arms: Sequence[ArmRun]) -> list[str]:
    """Notes and tables; each only if runs have the figures."""
    logged = [arm for arm in arms if arm.lines]
    return _seeds(logged) + _gains(logged) + _baselines(logged) + _places(logged) + _bits(logged)


def plateau_step(arm: ArmRun) -> float:
    """The step at which the validation loss is `PLATEAU_NATS` under the unigram baseline, else NaN."""
    losses = arm.whole_series("loss/valid")
    limit = arm.baselines().get("unigram", {}).get("loss", math.nan) - PLATEAU_NATS
    under = np.flatnonzero(losses.values <= limit)
    if not len(under):
        return math.nan
    at, steps = int(under[0]), losses.at["step"]
    before = losses.values[at - 1] if at else math.nan
    if not math.isfinite(before):
        return float(steps[at])
    share = (before - limit) / (before - losses.values[at])
    return float(steps[at - 1] + share * (steps[at] - steps[at - 1]))


def final(arm: ArmRun, key: str) -> float:
    """The last value of a validation metric; NaN if the run has none."""
    return arm.series(key).value_at("step", math.inf)


def _seeds(arms: Sequence[ArmRun]) -> list[str]:
    """The range over the seeds, for arms that are means; no value until all seeds have one."""
    rows = []
    for arm in arms:
        cells = []
        for key in ("loss/valid", "acc/valid"):
            values = [final(member, key) for member in arm.members]
            if values and all(map(math.isfinite, values)):
                ends = (metric(key, each) for each in (min(values), max(values)))
                cells += [metric(key, sum(values) / len(values)), " to ".join(ends)]
            else:
                cells += [NO_VALUE, NO_VALUE]
        if any(cell != NO_VALUE for cell in cells):
            rows.append([f"`{arm.name}`", f"{len(arm.members)}", *cells])
    header = ("arm", "seeds", "valid loss", "range", "valid acc", "range")
    return [SEED_NOTE, table(header, rows)] if rows else []


def _gains(arms: Sequence[ArmRun]) -> list[str]:
    """What training changed, for runs that were validated before their first step."""
    rows = []
    for arm in arms:
        cells = []
        for key in ("loss/valid", "acc/valid"):
            series = arm.series(key)
            if len(series.values) < 2 or series.at["step"][0] != 0:
                break
            before, after = series.values[0], series.values[-1]
            change = metric(key, float(after - before))
            cells += [metric(key, float(each)) for each in (before, after)] + [change]
        else:
            rows.append([f"`{arm.name}`", *cells])
    header = ("arm", "loss before", "after", "change", "acc before", "after", "change")
    return [GAIN_NOTE, table(header, rows)] if rows else []


def _baselines(arms: Sequence[ArmRun]) -> list[str]:
    rows = []
    for arm in arms:
        loss, baselines = final(arm, "loss/valid"), arm.baselines()
        gains = [
            f"{baselines[name]['loss'] - loss:.3f}" if name in baselines else NO_VALUE
            for name in ("unigram", "neighbour")
        ]
        if baselines and math.isfinite(loss):
            rows.append([f"`{arm.name}`", *gains, count(plateau_step(arm))])
    header = ("arm", "under unigram", "under neighbour", "steps to leave the plateau")
    return [BASELINE_NOTE, table(header, rows)] if rows else []


def _places(arms: Sequence[ArmRun]) -> list[str]:
    keys = [f"acc_{kind}/valid" for kind in KINDS]
    rows = [
        [f"`{arm.name}`", *(_cell(key, value) for key, value in zip(keys, values, strict=True))]
        for arm in arms
        for values in [[final(arm, key) for key in keys]]
        if not all(map(math.isnan, values))
    ]
    rows += [
        [f"{name} baseline", *(_cell("acc/valid", value) for value in values)]
        for name, values in _shared_baselines(arms).items()
    ]
    header = ("arm", "at [MASK]", "at a random token", "at a kept token")
    return [PLACE_NOTE, table(header, rows)] if any(row[0][0] == "`" for row in rows) else []


def _shared_baselines(arms: Sequence[ArmRun]) -> dict[str, list[float]]:
    """The accuracies of each baseline by kind of place, if all arms have the same."""
    found = [
        {
            name: [values.get(f"accuracy_{kind}", math.nan) for kind in KINDS]
            for name, values in arm.baselines().items()
        }
        for arm in arms
    ]
    return found[0] if found and all(each == found[0] for each in found) else {}


def _bits(arms: Sequence[ArmRun]) -> list[str]:
    vocabularies = {(arm.resolved.get("vocab_size"), arm.vocabulary) for arm in arms}
    bits = [final(arm, "bits_per_character/valid") for arm in arms]
    if len(vocabularies) < 2 or all(map(math.isnan, bits)):
        return []
    rows = [
        [
            f"`{arm.name}`",
            count(arm.resolved.get("vocab_size")),
            NO_VALUE if math.isnan(value) else f"{value:.4f}",
        ]
        for arm, value in zip(arms, bits, strict=True)
    ]
    return [BITS_NOTE, table(("arm", "vocabulary", "bits per character"), rows)]


def _cell(key: str, value: float) -> str:
    return NO_VALUE if math.isnan(value) else metric(key, value)
