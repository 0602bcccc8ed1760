"""Is an exported model worth more than its config? Accuracy after fine-tuning; `results/finetune.md`.

python benchmarks/finetune.py --on MODEL=TASK [--on MODEL=TASK …] [--epochs 10] [--rates 3e-4,1e-3]
    [--seeds 5] [--name finetune]

MODEL is a directory that `python -m bertds export` wrote, TASK one with `train.tsv` and `test.tsv`
(a text, a tab, a label a line), as `finetune_task.py` makes them. transformers' own Trainer, in an
environment of its own, fine-tunes the model, and one of the same config with random weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tables import publish
from venvs import python_of

HERE = Path(__file__).resolve().parent
HEADER = ["model", "task", "trained on", "tested on", "most frequent label", "weights"]
HEADER += ["learning rate", "accuracy", "least-most"]
NOTES = """
Accuracy on sentences that are in no training file, as mean and standard deviation over
{seeds} seeds, which draw the head, the order, dropout and, of `random weights`, all the rest. Each
kind has the learning rate of {rates} that did best on a tenth of the training sentences with the
first seed, {epochs:g} epochs, batch {batch}, linear decay after a tenth of warm-up, weight decay 0.01, fp32,
and the last weights. transformers {transformers}.

`{command}`
"""


def answer_of(python: str, model: Path, task: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What the worker found of a model on a task.

    Args:
        python: An interpreter that has transformers and accelerate.
        model: A Hugging Face directory.
        task: A directory with `train.tsv` and `test.tsv`.
        config: Of the worker.

    Raises:
        CalledProcessError: It failed; it has said why.
    """
    files = [str(model), str(task / "train.tsv"), str(task / "test.tsv")]
    program = [python, str(HERE / "finetune_peer.py"), *files, json.dumps(config)]
    # Nothing of this project may be at hand there.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(model: Path, task: Path, answer: dict[str, Any]) -> list[list[str]]:
    """Two rows of the table."""
    return [
        [
            model.name,
            task.name,
            f"{answer['sizes']['train']:,}",
            f"{answer['sizes']['test']:,}",
            f"{answer['most_frequent']:.1%}",
            kind,
            f"{found['rate']:g}",
            told(found["accuracies"]),
            f"{min(found['accuracies']):.1%}-{max(found['accuracies']):.1%}",
        ]
        for kind, found in answer["found"].items()
    ]


def told(accuracies: list[float]) -> str:
    """`97.8 ± 0.4 %`."""
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{100 * statistics.mean(accuracies):.1f} ± {100 * spread:.1f} %"


def main() -> None:
    """All pairs; the table is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", action="append", required=True, metavar="MODEL=TASK")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rates", default="3e-4,1e-3")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--name", default="finetune")
    options = parser.parse_args()
    rates = [float(rate) for rate in options.rates.split(",")]
    config = {"epochs": options.epochs, "batch": options.batch, "rates": rates}
    config["seeds"] = list(range(options.seeds))
    python = python_of("transformers")
    command = "python benchmarks/finetune.py " + " ".join(sys.argv[1:])
    rows: list[list[str]] = []
    for model, task in (map(Path, pair.split("=", 1)) for pair in options.on):
        answer = answer_of(python, model, task, config)
        rows += rows_of(model, task, answer)
        notes = NOTES.format(**answer | vars(options) | {"command": command})
        publish(options.name, "Fine-tuning of exported models", HEADER, rows, notes)


if __name__ == "__main__":
    main()
