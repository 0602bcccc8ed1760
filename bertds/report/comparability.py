"""Finds what cannot be compared between runs of different cases, and says it.

Validation sets that differ get different names. Runs that differ in one of their sets get numbers
behind their own names. So no table or plot compares different sets under one name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bertds.report.formatting import NO_VALUE, count, table
from bertds.report.run_data import ArmRun, Measure
from bertds.report.valid_set_identity import (
    distinct_set_names,
    masking_of,
    masks_text,
    set_keys,
    valid_masks,
    vocabularies,
    with_set_names,
)

__all__ = ["Comparability", "compare"]
STEP_RATIO = 1.05
"""Steps are of different sizes if their mean numbers of tokens differ by more than this factor."""
MAX_NAMES = 8
"""Runs that a sentence lists."""
SETS_NOTE = (
    "**The runs have different validation sets.** Figures over all sets can be compared only between "
    "runs with the same number in brackets. Between other runs, compare the figures of a set that "
    "both have."
)
SETS_HEADER = ("validation set", "data", "sequences", "tokens", "key", "masks", "runs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparability:
    """Runs in which equal names mean equal things, and what to know before comparing them."""

    runs: Sequence[ArmRun]
    """Validation sets that differ have different names."""
    groups: Mapping[str, str]
    """` [1]`, ` [2]`, … by the name of a run; empty if all runs have the same validation sets."""
    notes: Sequence[str]
    """Blocks of Markdown."""
    measure: Measure
    """What to draw the curves against."""
    has_vocabularies: bool
    """Whether the vocabularies differ, so that only bits per character can be compared."""


def compare(runs: Sequence[ArmRun]) -> Comparability:
    """Find the differences that make figures of runs incomparable; names of runs are unique."""
    own_vocabularies = vocabularies(runs)
    has_vocabularies = len(set(own_vocabularies)) > 1
    notes = _vocabulary_note(runs, own_vocabularies) if has_vocabularies else []
    keys = [
        set_keys(run, vocabulary) for run, vocabulary in zip(runs, own_vocabularies, strict=True)
    ]
    all_sets = [tuple(sorted(sets.values())) for sets in keys]
    groups: dict[str, str] = {}
    if len(set(all_sets)) > 1:
        numbers = {each: number for number, each in enumerate(dict.fromkeys(all_sets), start=1)}
        groups = {run.name: f" [{numbers[each]}]" for run, each in zip(runs, all_sets, strict=True)}
        names = distinct_set_names(keys)
        runs = [with_set_names(run, own) for run, own in zip(runs, names, strict=True)]
        notes += _set_notes(runs, groups)
    step_notes = _step_note(runs)
    has_tokens = all("tokens" in run.lines[-1] for run in runs)
    return Comparability(
        runs=runs,
        groups=groups,
        notes=[*notes, *_mask_notes(runs), *step_notes],
        measure="tokens" if step_notes and has_tokens else "step",
        has_vocabularies=has_vocabularies,
    )


def _vocabulary_note(runs: Sequence[ArmRun], own_vocabularies: Sequence[str]) -> list[str]:
    by_vocabulary: dict[str, list[ArmRun]] = {}
    for run, vocabulary in zip(runs, own_vocabularies, strict=True):
        by_vocabulary.setdefault(vocabulary, []).append(run)
    listed = [
        f"{count(group[0].resolved.get('vocab_size'))} tokens: {_names(group)}"
        for group in by_vocabulary.values()
    ]
    without = [run for run in runs if not len(run.series("bits_per_character/valid").values)]
    note = (
        f"**The runs have different vocabularies** ({'; '.join(listed)}). Losses, accuracies and token "
        "counts are of different tokens. Compare bits per character: they are comparable if the "
        "validation text is the same."
    )
    if without:
        note += f" These runs did not log them: {_names(without)}."
    return [note]


def _set_notes(runs: Sequence[ArmRun], groups: Mapping[str, str]) -> list[str]:
    """Which runs can be compared as a whole, and what each validation set is."""
    rows: dict[str, list[str]] = {}
    owners: dict[str, list[str]] = {}
    for run in runs:
        for name, content in run.resolved["valid"].items():
            owners.setdefault(name, []).append(f"`{run.name}{groups[run.name]}`")
            rows[name] = [
                f"`{name}`",
                str(content.get("name", NO_VALUE)),
                count(content.get("sequences")),
                count(content.get("tokens")),
                str(content.get("set_key", NO_VALUE)),
                valid_masks(run),
            ]
    cells = [[*row, ", ".join(owners[name])] for name, row in rows.items()]
    return [SETS_NOTE, *([table(SETS_HEADER, cells)] if cells else [])]


def _mask_notes(runs: Sequence[ArmRun]) -> list[str]:
    """The differences in what is masked, in training and in validation."""
    notes = []
    if masks := _differing(runs, lambda run: masks_text(masking_of(run))):
        notes.append(
            f"**Training is masked differently** ({masks}). Training losses and accuracies cannot be "
            "compared."
        )
    if seeds := _differing(runs, _mask_seed):
        notes.append(
            f"**The masks of validation have different seeds** ({seeds}). Small differences may come "
            "from the masks. `masking.valid_seed` gives all runs the same masks."
        )
    return notes


def _mask_seed(run: ArmRun) -> str:
    rule = masking_of(run)
    return str(rule["seed"] if rule["valid_seed"] is None else rule["valid_seed"])


def _step_note(runs: Sequence[ArmRun]) -> list[str]:
    """A step that is more work in one run than in another makes an axis of steps misleading."""
    steps = [run.reached("tokens") / run.reached("step") for run in runs if run.reached("step")]
    sizes = _differing(runs, _batch)
    if not sizes and not (steps and max(steps) > STEP_RATIO * min(steps)):
        return []
    sizes = sizes or "the mean length of the sequences differs"
    note = (
        f"**Steps are of different sizes** ({sizes}). Compare at equal tokens or time, not at equal "
        "steps."
    )
    return [note]


def _batch(run: ArmRun) -> str:
    config = run.case.get("config", {})
    length = config.get("bertds", {}).get("data", {}).get("seq_len")
    return f"{count(config.get('train_batch_size'))} sequences of at most {count(length)} tokens"


def _differing(runs: Iterable[ArmRun], value_of: Callable[[ArmRun], str]) -> str:
    """The runs of each value, as text; empty if all runs have the same."""
    by_value: dict[str, list[ArmRun]] = {}
    for run in runs:
        by_value.setdefault(value_of(run), []).append(run)
    if len(by_value) < 2:
        return ""
    return "; ".join(f"{value}: {_names(group)}" for value, group in by_value.items())


def _names(runs: Sequence[ArmRun]) -> str:
    names = [f"`{run.name}`" for run in runs[:MAX_NAMES]]
    others = len(runs) - len(names)
    return ", ".join(names) + (f" and {others} more" if others else "")
