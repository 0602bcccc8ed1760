"""Tells validation sets apart that have one name in different runs.

A validation loss depends on the vocabulary, the text and the masks. Sets that differ in one of them
are different sets, whatever their names are. The seed of the masks is left out: other masks of the
same kind give another sample of the same loss.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bertds.config.schema import MaskingConfig
from bertds.io.json_files import read_json_object
from bertds.report.run_data import ArmRun

__all__ = [
    "SetKey",
    "distinct_set_names",
    "masking_of",
    "masks_text",
    "set_keys",
    "valid_masks",
    "vocabularies",
    "vocabulary_key",
    "with_set_names",
]
SetKey = tuple[str, ...]
"""What the figures of a validation set depend on."""
_PER_SET = ("loss", "acc", "bits_per_character")
"""Metrics that a run with several validation sets logs for each of them."""


def vocabulary_key(tokenizer_file: Path) -> str:
    """A hash of what decides the tokens of a text; empty if the file is missing or damaged."""
    try:
        content = read_json_object(tokenizer_file)
    except (ValueError, OSError):
        return ""
    parts = ("normalizer", "pre_tokenizer", "model", "added_tokens")
    text = json.dumps({part: content.get(part) for part in parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def vocabularies(runs: Sequence[ArmRun]) -> list[str]:
    """What distinguishes the vocabulary of each run; only the size if not all are known."""
    are_known = all(run.vocabulary for run in runs)
    return [run.vocabulary if are_known else str(run.resolved.get("vocab_size")) for run in runs]


def set_keys(run: ArmRun, vocabulary: str) -> dict[str, SetKey]:
    """The key of each validation set of a run, by the set's name."""
    masks = valid_masks(run)
    return {
        name: (
            vocabulary,
            masks,
            str(content.get("set_key") or content.get("tokens")),
            str(content.get("sequences")),
        )
        for name, content in run.resolved.get("valid", {}).items()
    }


def masking_of(run: ArmRun) -> dict[str, Any]:
    """The masking block of a run with all defaults."""
    given = run.case.get("config", {}).get("bertds", {}).get("masking", {})
    try:
        return MaskingConfig.model_validate(given).model_dump()
    except ValidationError:  # of another version
        return {**MaskingConfig().model_dump(), **given}


def valid_masks(run: ArmRun) -> str:
    """How validation is masked, apart from the seed."""
    rule = masking_of(run)
    return masks_text({**rule, "ratio": rule["valid_ratio"] or rule["ratio"]})


def masks_text(rule: Mapping[str, Any]) -> str:
    """A masking rule as a user would describe it, apart from the seed."""
    words = f", whole words (version {rule['version']})" if rule["unit"] == "word" else ""
    shares = f"[MASK] {rule['mask_share']:g}, random {rule['random_share']:g}"
    return f"ratio {rule['ratio']:g}, {shares}{words}"


def distinct_set_names(keys: Sequence[Mapping[str, SetKey]]) -> list[dict[str, str]]:
    """New names of each run's sets: `en` stays if all runs mean the same, else it is `en #2`."""
    known: dict[str, list[SetKey]] = {}
    for sets in keys:
        for name, key in sets.items():
            others = known.setdefault(name, [])
            if key not in others:
                others.append(key)
    return [
        {
            name: f"{name} #{known[name].index(key) + 1}" if len(known[name]) > 1 else name
            for name, key in sets.items()
        }
        for sets in keys
    ]


def with_set_names(run: ArmRun, names: Mapping[str, str]) -> ArmRun:
    """The run with new names of its sets; a single set gets metrics and baselines of its own."""
    only = next(iter(names.values())) if len(names) == 1 else ""
    resolved = dict(run.resolved)
    resolved["valid"] = {
        names[name]: content for name, content in resolved.get("valid", {}).items()
    }
    if baselines := resolved.get("guess_without_context"):
        own = baselines.get("sets", {})
        sets = {only: baselines} if only else {names[name]: own[name] for name in own}
        resolved["guess_without_context"] = {**baselines, "sets": sets}
    lines = [_renamed_line(line, names, only) for line in run.lines]
    return replace(run, lines=lines, case={**run.case, "resolved": resolved})


def _renamed_line(
    line: Mapping[str, float], names: Mapping[str, str], only: str
) -> dict[str, float]:
    renamed = {}
    for tag, value in line.items():
        kind, is_per_set, name = tag.partition("/valid/")
        renamed[f"{kind}/valid/{names.get(name, name)}" if is_per_set else tag] = value
    if only:
        tags = [f"{kind}/valid" for kind in _PER_SET]
        renamed |= {f"{tag}/{only}": line[tag] for tag in tags if tag in line}
    return renamed
