"""The rule that scales the reference experiments down to two CPU cores.

| quantity | divided by | reason |
|---|---|---|
| widths | 4 | a sixteenth of the weights in the layers |
| attention heads | 2 | |
| merges | 4 | a text of 11,000 sentences shows most of 50,000 tokens only once or twice |
| batch size | 8 | |
| epochs, and all lengths of schedules | 4 | see below |
| sentences | 128 | with the above, a sixty-fourth of the steps |

Epochs shrink little, because several cases compare effects of repetition: fixed masks, and overfitting. Steps
shrink less than sentences, because a model leaves the plateau of the most frequent tokens after a number of
steps. Training is in fp32, as in the original: results are the same on every CPU, and bf16 is ten times
slower on a CPU without instructions for it. What the arms of a case compare is kept: depth, weight decay,
learning rates, masking, and the ratios of vocabularies and batch sizes. `train_all.py` passes the scaled
values with `--set`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertds.config.case import list_arms, read_case
from data_prep.reproduction import MERGES as REFERENCE_MERGES
from data_prep.reproduction import vocabulary_name

WIDTH = 4
HEADS = 2
MERGES = 4
BATCH = 8
EPOCHS = 4
SENTENCES = 128
REFERENCE_SENTENCES = 1_442_176 + 160_242  # per language, training and validation
SCALED_MERGES = {vocabulary_name(count): count // MERGES for count in REFERENCE_MERGES}
VALIDATIONS = 12  # per run; more if it had none within the steps of the shortest arm of its case
LOG_LINES = 100
VALID_FACTOR = 4  # validation sets are this many times larger than the rule for sentences gives


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A set of runs that differ from the scaled cases in one more way."""

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
    Variant(name="seed0", cases=ELEVEN + NEW, meaning="as shipped, scaled by the rule"),
    Variant(name="seed1", cases=SEEDED, settings="run.seed=1", meaning="another seed"),
    Variant(name="seed2", cases=SEEDED, settings="run.seed=2", meaning="another seed"),
    Variant(
        name="adamw",
        cases=("case2", "case5", "case7"),
        settings=ADAMW,
        meaning="AdamW: decoupled weight decay, not applied to biases and norms",
    ),
    Variant(
        name="warmup",
        cases=("case9",),
        settings=WARMUP,
        meaning="warm-up over one epoch of the reference, then a constant learning rate",
    ),
)


def scaled_settings(path: Path, arm: str, sentences: int) -> str:
    """Return the `--set` text that scales an arm down.

    Args:
        path: The case file.
        arm: An arm that this case trains itself.
        sentences: Sentences per language in the current corpus, training and validation.
    """
    case = read_case(path, arm)
    block, factor = case.resolved["bertds"], REFERENCE_SENTENCES / SENTENCES / sentences
    model, data = block["model"], block["data"]
    epochs = block["run"]["num_epochs"] / EPOCHS
    # The arm with the largest batch makes the fewest steps in an equal number of epochs.
    arms = list_arms(path)
    largest_batch = max(read_case(each.path, each.run_arm).train_batch_size for each in arms)
    validations = max(VALIDATIONS, math.ceil(1.5 * largest_batch / case.train_batch_size))
    settings: dict[str, Any] = {
        "bf16.enabled": False,
        "train_batch_size": case.train_batch_size // BATCH,
        "model.hidden_size": model["hidden_size"] // WIDTH,
        "model.intermediate_size": model["intermediate_size"] // WIDTH,
        "model.num_attention_heads": model["num_attention_heads"] // HEADS,
        "data.train": [_scaled_set(each, factor) for each in data["train"]],
        "data.valid": {
            name: _scaled_set(each, factor * VALID_FACTOR) for name, each in data["valid"].items()
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


def _scaled_set(dataset: dict[str, Any], factor: float) -> dict[str, Any]:
    vocabulary, rest = dataset["name"].split("/", 1)
    name = f"{vocabulary_name(SCALED_MERGES[vocabulary])}/{rest}"
    fraction = min(1.0, dataset.get("fraction", 1.0) * factor)
    return {**dataset, "name": name, "fraction": round(fraction, 6)}


def _interval(epochs: float) -> str:
    return f"{max(epochs, 1e-6):.6f} epochs"
