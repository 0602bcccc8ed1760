"""Fine-tuning accuracy of an exported model, beside random weights; writes `results/finetune.md`.

python -m benchmarks.finetuning.finetune --on MODEL=TASK [--on MODEL=TASK …] [--epochs 10]
    [--rates 3e-4,1e-3] [--seeds 5] [--name finetune]

MODEL is a directory written by `python -m bertds export`. TASK is a directory with `train.tsv` and
`test.tsv` (per line a text, a tab and a label), for example from `benchmarks.finetuning.synthetic_task`.
The Trainer of transformers, in an environment of its own, fine-tunes the model, and a model of the same
config with random weights.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.peer_venvs import peer_python
from benchmarks.common.tables import publish

WORKER = Path(__file__).with_name("finetune_transformers.py")
HEADER = ["model", "task", "trained on", "tested on", "most frequent label", "weights"]
HEADER += ["learning rate", "accuracy", "minimum-maximum"]
NOTES = """
Accuracy on sentences that are in no training file: mean and standard deviation over {seeds} seeds. A seed
determines the classification head, the data order and dropout, and all weights of `random weights`. Each
kind of weights uses the learning rate of {rates} that did best on a tenth of the training sentences with the
first seed. {epochs:g} epochs, batch {batch}, linear decay after 10 % warm-up, weight decay 0.01, fp32, last
weights. transformers {transformers}.

`{command}`
"""


def run_worker(python: str, model: Path, task: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune a model on a task in the peer's environment, and return the worker's answer.

    Args:
        python: A Python with transformers and accelerate.
        model: A Hugging Face directory.
        task: A directory with `train.tsv` and `test.tsv`.
        config: `finetune_transformers.Config` as a dictionary.

    Raises:
        CalledProcessError: The worker failed; its message is on standard error.
    """
    files = [str(model), str(task / "train.tsv"), str(task / "test.tsv")]
    # Nothing of this project may be importable in the worker: a plain user would not have it.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(WORKER), *files, json.dumps(config)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def make_rows(model: Path, task: Path, answer: dict[str, Any]) -> list[list[str]]:
    """Return the table rows of the pre-trained and the random weights."""
    rows = []
    for kind, result in answer["found"].items():
        accuracies = result["accuracies"]
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        rows.append(
            [
                model.name,
                task.name,
                f"{answer['sizes']['train']:,}",
                f"{answer['sizes']['test']:,}",
                f"{answer['most_frequent']:.1%}",
                kind,
                f"{result['rate']:g}",
                f"{100 * statistics.mean(accuracies):.1f} ± {100 * deviation:.1f} %",
                f"{min(accuracies):.1%}-{max(accuracies):.1%}",
            ]
        )
    return rows


def main() -> None:
    """Fine-tune all pairs; the table is written after each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", action="append", required=True, metavar="MODEL=TASK")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rates", default="3e-4,1e-3", help="learning rates to choose from")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--name", default="finetune", help="name of the file in results/")
    options = parser.parse_args()
    rates = [float(rate) for rate in options.rates.split(",")]
    config = {"epochs": options.epochs, "batch": options.batch, "rates": rates}
    config["seeds"] = list(range(options.seeds))
    python = peer_python("transformers")
    command = "python -m benchmarks.finetuning.finetune " + " ".join(sys.argv[1:])
    rows: list[list[str]] = []
    for model, task in (map(Path, pair.split("=", 1)) for pair in options.on):
        answer = run_worker(python, model, task, config)
        rows += make_rows(model, task, answer)
        notes = NOTES.format(**answer | vars(options) | {"command": command})
        publish(options.name, "Fine-tuning of exported models", HEADER, rows, notes)


if __name__ == "__main__":
    main()
