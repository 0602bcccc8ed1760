"""The one rule by which the record's cases are made small enough for two CPU cores.

Every width a quarter, so a sixteenth of the weights in the layers; a quarter of the merges, since a
text of 11,000 sentences shows most of 50,000 tokens once or twice; an eighth of the batch, a quarter of
the epochs, all lengths of schedules with them; of the sentences one in 128, so a sixty-fourth of the
steps. Epochs are spared because what several cases compare, fixed masks or overfitting, only shows
where a text comes again and again; steps, because a model leaves the plateau of the most frequent
tokens by their number. In fp32, as the original: one figure on every CPU, and bf16 is ten times slower
than that where the CPU has no instructions for it. What the arms of a case differ in stays: depth,
decay, rates, masking, and vocabularies and batch sizes as ratios. The script that runs them makes
`--set` of it.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertds.config.case import list_arms, read_case
from data_prep.reproduction import MERGES as RECORD_MERGES
from data_prep.reproduction import vocabulary_name

WIDTH = 4
HEADS = 2
MERGES = 4
BATCH = 8
EPOCHS = 4
SENTENCES = 128
RECORD_SENTENCES = 1_442_176 + 160_242  # a language, in training and validation
SCALED_MERGES = {vocabulary_name(count): count // MERGES for count in RECORD_MERGES}
VALIDATIONS = (
    12  # in a run; more where it would have none within the steps of its case's shortest arm
)


LOG_LINES = 100
VALID_SHARE = 4  # times what the rule for sentences leaves of a validation set


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A set of runs that all differ from the shipped cases in one way more than by the rule."""

    name: str
    cases: tuple[str, ...]
    settings: str = ""
    meaning: str


ELEVEN = tuple(f"case{number}" for number in range(1, 12))
NEW = ("case12", "case13", "case14")
SEEDED = ("case4", "case8", "case11")
ADAMW = "optimizer.type=AdamW,optimizer.params.adam_w_mode=null"
WARMUP = 'scheduler={"type":"WarmupLinearLR","params":{"warmup_epochs":0.25,"min_ratio":1}}'
VARIANTS = (
    Variant(name="seed0", cases=ELEVEN + NEW, meaning="as shipped, by the rule"),
    Variant(name="seed1", cases=SEEDED, settings="run.seed=1", meaning="another seed"),
    Variant(name="seed2", cases=SEEDED, settings="run.seed=2", meaning="another seed"),
    Variant(
        name="adamw",
        cases=("case2", "case5", "case7"),
        settings=ADAMW,
        meaning="AdamW's decoupled decay, which leaves out biases and norms",
    ),
    Variant(
        name="warmup",
        cases=("case9",),
        settings=WARMUP,
        meaning="a warm-up of one of the record's epochs before the constant rate",
    ),
)


def scaled(path: Path, arm: str, sentences: int) -> str:
    """The `--set` text that makes an arm small.

    Args:
        path: The case file.
        arm: An arm that it trains itself.
        sentences: Of a language in the corpus at hand, in training and validation.
    """
    case = read_case(path, arm)
    block, share = case.resolved["bertds"], RECORD_SENTENCES / SENTENCES / sentences
    model, data = block["model"], block["data"]
    epochs = block["run"]["num_epochs"] / EPOCHS
    validations = max(VALIDATIONS, math.ceil(1.5 * _largest_batch(path) / case.train_batch_size))
    settings: dict[str, Any] = {
        "bf16.enabled": False,
        "train_batch_size": case.train_batch_size // BATCH,
        "model.hidden_size": model["hidden_size"] // WIDTH,
        "model.intermediate_size": model["intermediate_size"] // WIDTH,
        "model.num_attention_heads": model["num_attention_heads"] // HEADS,
        "data.train": [_part(one, share) for one in data["train"]],
        "data.valid": {
            name: _part(one, share * VALID_SHARE) for name, one in data["valid"].items()
        },
        "run.num_epochs": epochs,
        "run.log_every": _interval(epochs / LOG_LINES),
        "run.eval_every": _interval(epochs / validations),
        "run.save_every": _interval(epochs / 8),
        "run.keep_last": 1,
    }
    for key, value in case.resolved.get("scheduler", {}).get("params", {}).items():
        if key.endswith("_epochs"):
            settings[f"scheduler.params.{key}"] = value / EPOCHS
    return ",".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _largest_batch(path: Path) -> int:
    """Whose arm makes the fewest steps in as many epochs."""
    return max(read_case(arm.path, arm.run_arm).train_batch_size for arm in list_arms(path))


def _part(one: dict[str, Any], share: float) -> dict[str, Any]:
    vocabulary, rest = one["name"].split("/", 1)
    name = f"{vocabulary_name(SCALED_MERGES[vocabulary])}/{rest}"
    fraction = min(1.0, one.get("fraction", 1.0) * share)
    return {**one, "name": name, "fraction": round(fraction, 6)}


def _interval(epochs: float) -> str:
    return f"{max(epochs, 1e-6):.6f} epochs"
