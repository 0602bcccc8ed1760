"""The rule that scales the reference experiments down to two CPU cores.

| quantity | rule | reason |
|---|---|---|
| widths | 1/4 | a sixteenth of the weights in the layers |
| attention heads | 1/2 | |
| BPE merges | 1/8 | in 11,000 sentences most of 50,000 tokens occur only once or twice |
| batch size | 1/16 | more steps over the same tokens, at equal speed |
| sentences for training | 1/128, more for a case of few epochs | see below |
| sentences for validation | 2,000 of each set | enough for differences of 0.01 nats |
| epochs, and all lengths of schedules | 1/8 | see below |
| positions | rotary, except in case 12 | learned positions need some 2,000 steps more |

The text of the reference does not say which position embeddings it used. Case 12 compares learned and rotary
ones. An encoder needs about 1,000 steps before it uses context. So a case with fewer than 4 scaled epochs gets
more sentences: as many as it would have read in 4 epochs. Training is in fp32, as in the reference. bf16 is ten
times slower on a CPU without instructions for it. The properties that the arms compare are unchanged: depth,
weight decay, learning rates, masking, and the ratios of vocabularies and batch sizes.

The rule was fixed on 2026-11-29, before the first seed, after the pilot runs below, which were used for nothing
else. The goal was a validation loss 0.3 nats below the unigram baseline, except for arms that failed in the
reference. Pilots with a quarter of the epochs reached it within half of their steps, so epochs became 1/8:

| pilot | steps | nats below the unigram baseline |
|---|---|---|
| case 1, layers6 | 2,817 of 11,264 | 1.06 |
| case 4, static, AdamW, 8 epochs | 5,632 of 5,632 | 0.18 at best, then -0.52: it overfits to the fixed masks |
| case 4, static, AdamW, 4 epochs of twice the sentences | 2,814 of 5,632 | 0.53 |
| case 11, batch64_cosine | 3,642 of 21,855 | 0.93 |

`scaled_case` returns a complete case file in which each arm has all scaled values.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertds.config.case import Case, list_arms, read_case
from bertds.config.overrides import merge_patch, settings_patch
from data_prep.reproduction import MERGES as REFERENCE_MERGES
from data_prep.reproduction import vocabulary_name

WIDTH = 4
HEADS = 2
MERGES = 8
BATCH = 16
EPOCHS = 8
LEAST_EPOCHS = 4
"""Epochs of 1/128 of the sentences that every run at least lasts."""
SENTENCES = 128
VALID_SENTENCES = 2_000
VALID_SHARE = 0.1
"""Share of a text that `data_prep record` keeps for validation."""
REFERENCE_SENTENCES = 1_442_176 + 160_242  # per language, training and validation
SCALED_MERGES = {vocabulary_name(count): count // MERGES for count in REFERENCE_MERGES}
VALIDATIONS = 10
"""In each run, or more if the arms of a case differ much in their batches."""
LOG_LINES = 100
LEARNED_POSITIONS = "case12"
"""The case whose arms keep their positions."""
ROTARY_BASE = {"case12/prenorm": "case12/prenorm_rope"}
"""The run that an arm of another case is the same as, in place of the one in the shipped file."""
OVERFITTING = ("case1",)
"""The cases whose last checkpoint is compared with their best one."""
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A set of runs that differ from the scaled cases in one more way."""

    name: str
    cases: tuple[str, ...]
    settings: str = ""
    meaning: str


ELEVEN = tuple(f"case{number}" for number in range(1, 12))
NEW = ("case12", "case13", "case14")
SEED = "run.seed={0},masking.seed={0},masking.valid_seed=0"
ADAMW = "optimizer.type=AdamW,optimizer.params.adam_w_mode=null"
SEEDS = tuple(
    Variant(
        name=f"seed{seed}",
        cases=ELEVEN + NEW,
        settings=SEED.format(seed),
        meaning=f"scaled by the rule, seed {seed}",
    )
    for seed in range(3)
)
VARIANTS = (
    *SEEDS,
    Variant(
        name="adamw",
        cases=("case2", "case3", "case4", "case5", "case7"),
        settings=ADAMW,
        meaning="AdamW: decoupled weight decay, not applied to biases and norms",
    ),
)


def scaled_case(path: Path, sentences: int) -> Json:
    """Return a case file whose arms are scaled down.

    Args:
        path: The shipped case file.
        sentences: Sentences per language in the current corpus, training and validation.
    """
    content: Json = json.loads(path.read_text())
    patches, arms = content["bertds"].get("arms", {"main": {}}), list_arms(path)
    cases = {arm.name: read_case(arm.path, arm.run_arm) for arm in arms}
    largest_batch = max(case.train_batch_size for case in cases.values())
    content["bertds"]["arms"] = {
        arm.name: _scaled_arm(cases[arm.name], patches[arm.name], sentences, largest_batch)
        if arm.path == path
        else {"same_as": ROTARY_BASE.get(arm.same_as, arm.same_as)}
        for arm in arms
    }
    return content


def _scaled_arm(case: Case, patch: Json, sentences: int, largest_batch: int) -> Json:
    """Return the patch of an arm with all scaled values."""
    block = case.resolved["bertds"]
    # The arm with the largest batch makes the fewest steps, and is compared at equal steps too.
    validations = max(VALIDATIONS, math.ceil(1.5 * largest_batch / case.train_batch_size))
    model, data = block["model"], block["data"]
    epochs = block["run"]["num_epochs"] / EPOCHS
    train_fraction = REFERENCE_SENTENCES / SENTENCES / sentences * max(1.0, LEAST_EPOCHS / epochs)
    valid_fraction = VALID_SENTENCES / (sentences * VALID_SHARE)
    settings: dict[str, Any] = {
        "bf16.enabled": False,
        "train_batch_size": case.train_batch_size // BATCH,
        "model.hidden_size": model["hidden_size"] // WIDTH,
        "model.intermediate_size": model["intermediate_size"] // WIDTH,
        "model.num_attention_heads": model["num_attention_heads"] // HEADS,
        "data.train": [
            _scaled_set(each, each.get("fraction", 1.0) * train_fraction) for each in data["train"]
        ],
        "data.valid": {
            name: _scaled_set(each, valid_fraction) for name, each in data["valid"].items()
        },
        "run.num_epochs": epochs,
        "run.log_every": _interval(epochs / LOG_LINES),
        "run.eval_every": _interval(epochs / validations),
        "run.save_every": _interval(epochs / 4),
        "run.keep_last": 1,
    }
    if case.name != LEARNED_POSITIONS and model["preset"] == "bert-prenorm":
        settings["model.positions"] = "rope"
    for key, value in case.resolved.get("scheduler", {}).get("params", {}).items():
        if key.endswith("_epochs"):
            settings[f"scheduler.params.{key}"] = value / EPOCHS
    scaled: Json = merge_patch(patch, settings_patch(settings))
    return scaled


def _scaled_set(dataset: Json, fraction: float) -> Json:
    vocabulary, rest = dataset["name"].split("/", 1)
    name = f"{vocabulary_name(SCALED_MERGES[vocabulary])}/{rest}"
    return {**dataset, "name": name, "fraction": round(min(1.0, fraction), 6)}


def _interval(epochs: float) -> str:
    return f"{max(epochs, 1e-6):.6f} epochs"
