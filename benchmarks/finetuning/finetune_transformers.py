"""Worker: fine-tunes an exported model with the Trainer of transformers, without using this project.

python benchmarks/finetuning/finetune_transformers.py MODEL TRAIN TEST CONFIG

MODEL is a Hugging Face directory, TRAIN and TEST are tab-separated files of texts and labels, and CONFIG
is a JSON object of `Config`. Prints one JSON object for the model as exported and for a model of the same
config with random weights: the learning rate that did best on a tenth of TRAIN, and the accuracy on TEST
for each seed.
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

KINDS = ("pre-trained", "random weights")
HEAD = ("classifier", "pooler", "head")
"""Modules that a masked language model lacks and that are initialized for classification."""
Rows = list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Config:
    """How both models are fine-tuned."""

    epochs: float = 4.0
    batch: int = 32
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Learning rates to try with the first seed. A single one is used without trying."""
    seeds: tuple[int, ...] = (0, 1, 2)
    max_steps: int = -1
    """Stop early, for tests; -1 trains all epochs."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A model and a task. `num_labels` counts the labels of training and test set together."""

    directory: Path
    tokenizer: transformers.PreTrainedTokenizerBase
    num_labels: int
    config: Config


def main() -> None:
    """Fine-tune both kinds of weights and print the results."""
    directory, train, test = map(Path, sys.argv[1:4])
    config = Config(**json.loads(sys.argv[4]))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = {"train": read(train), "test": read(test)}
    labels = sorted({label for rows in texts.values() for _, label in rows})
    rows = {name: encode(tokenizer, part, labels) for name, part in texts.items()}
    experiment = Experiment(directory, tokenizer, len(labels), config)
    found = {}
    for kind in KINDS:
        rate = choose_rate(experiment, kind, rows["train"])
        accuracies = [
            measure_accuracy(experiment, kind, rows["train"], rows["test"], rate, seed)
            for seed in config.seeds
        ]
        found[kind] = {"rate": rate, "accuracies": accuracies}
    most_frequent = max(sum(row["labels"] == n for row in rows["test"]) for n in range(len(labels)))
    answer = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "sizes": {name: len(part) for name, part in rows.items()},
        "most_frequent": most_frequent / len(rows["test"]),
        "config": asdict(config),
        "found": found,
    }
    print(json.dumps(answer), flush=True)


def read(path: Path) -> list[tuple[str, str]]:
    """Read texts and labels from a tab-separated file.

    Raises:
        SystemExit: The file is empty, or a line is not a text, a tab and a label.
    """
    rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows or any(len(row) != 2 for row in rows):
        raise SystemExit(f"{path}: expected a text, a tab and a label on each line")
    return [(text, label) for text, label in rows]


def encode(
    tokenizer: transformers.PreTrainedTokenizerBase, rows: list[tuple[str, str]], labels: list[str]
) -> Rows:
    """Tokenize the texts and number the labels, as the Trainer expects them."""
    ids = tokenizer([text for text, _ in rows], truncation=True)["input_ids"]
    return [
        {"input_ids": row, "labels": labels.index(label)}
        for row, (_, label) in zip(ids, rows, strict=True)
    ]


def make_model(directory: Path, kind: str, num_labels: int, seed: int) -> PreTrainedModel:
    """Load or initialize the model, with a classification head.

    Raises:
        SystemExit: Weights of the encoder are missing; transformers would use random ones.
    """
    set_seed(seed)
    config = AutoConfig.from_pretrained(directory, num_labels=num_labels)
    if kind != KINDS[0]:
        return AutoModelForSequenceClassification.from_config(config)
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        directory, config=config, output_loading_info=True
    )
    missing = [key for key in loading["missing_keys"] if not set(HEAD) & set(key.split("."))]
    if missing:
        raise SystemExit(f"{directory} lacks {', '.join(missing)}: is it an exported model?")
    return model


def choose_rate(experiment: Experiment, kind: str, rows: Rows) -> float:
    """Return the learning rate with the best accuracy on a tenth of the training rows."""
    rates, seed = experiment.config.rates, experiment.config.seeds[0]
    if len(rates) == 1:
        return rates[0]
    held_out, rest = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    return max(
        rates,
        key=lambda rate: measure_accuracy(experiment, kind, rest, held_out, rate, seed),
    )


def measure_accuracy(
    experiment: Experiment, kind: str, train: Rows, test: Rows, rate: float, seed: int
) -> float:
    """Fine-tune on `train` and return the accuracy of the last weights on `test`."""
    config = experiment.config
    model = make_model(experiment.directory, kind, experiment.num_labels, seed)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            max_steps=config.max_steps,
            per_device_train_batch_size=config.batch,
            per_device_eval_batch_size=config.batch * 4,
            learning_rate=rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            weight_decay=0.01,
            seed=seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=test,
            data_collator=DataCollatorWithPadding(experiment.tokenizer),
            compute_metrics=lambda outputs: {
                "accuracy": float((outputs.predictions.argmax(-1) == outputs.label_ids).mean())
            },
        )
        trainer.train()
        accuracy = float(trainer.evaluate()["eval_accuracy"])
    print(f"{kind}, rate {rate:g}, seed {seed}: {accuracy:.2%}", file=sys.stderr, flush=True)
    return accuracy


if __name__ == "__main__":
    main()
