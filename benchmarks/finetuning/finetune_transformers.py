"""A worker: transformers' own Trainer on an exported model; knows nothing of this project.

python finetune_peer.py MODEL TRAIN TEST CONFIG, with a Hugging Face directory, two tab-separated
files of texts and labels, and a JSON object of `Config`. Prints one JSON object: for the model as it
is and for one of the same config with random weights, the learning rate that did best on a tenth of
TRAIN, and the accuracy on TEST with each seed.
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
"""What a masked-language model does not have and classification begins anew."""
Rows = list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Config:
    """How both models are fine-tuned."""

    epochs: float = 4.0
    batch: int = 32
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Learning rates tried with the first seed; one that is given alone is taken."""
    seeds: tuple[int, ...] = (0, 1, 2)
    max_steps: int = -1
    """Ends a run early, for tests."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A model and a task; `num_labels` are those of training and test together."""

    directory: Path
    tokenizer: transformers.PreTrainedTokenizerBase
    num_labels: int
    config: Config


def main() -> None:
    """What the arguments ask for."""
    directory, train, test = map(Path, sys.argv[1:4])
    config = Config(**json.loads(sys.argv[4]))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    texts = {"train": read(train), "test": read(test)}
    labels = sorted({label for rows in texts.values() for _, label in rows})
    rows = {name: encode(tokenizer, part, labels) for name, part in texts.items()}
    contest = Contest(directory, tokenizer, len(labels), config)
    found = {}
    for kind in KINDS:
        rate = best_rate(contest, kind, rows["train"])
        accuracies = [
            accuracy(contest, kind, rows["train"], rows["test"], rate, seed)
            for seed in config.seeds
        ]
        found[kind] = {"rate": rate, "accuracies": accuracies}
    most_frequent = max(sum(row["labels"] == n for row in rows["test"]) for n in range(len(labels)))
    facts = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "sizes": {name: len(part) for name, part in rows.items()},
        "most_frequent": most_frequent / len(rows["test"]),
        "config": asdict(config),
    }
    print(json.dumps({**facts, "found": found}), flush=True)


def read(path: Path) -> list[tuple[str, str]]:
    """Texts and labels of a tab-separated file.

    Raises:
        SystemExit: A line is not a text, a tab and a label.
    """
    rows = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows or any(len(row) != 2 for row in rows):
        raise SystemExit(f"{path}: each line must be a text, a tab and a label")
    return [(text, label) for text, label in rows]


def encode(
    tokenizer: transformers.PreTrainedTokenizerBase, rows: list[tuple[str, str]], labels: list[str]
) -> Rows:
    """What the Trainer takes."""
    ids = tokenizer([text for text, _ in rows], truncation=True)["input_ids"]
    return [
        {"input_ids": one, "labels": labels.index(label)}
        for one, (_, label) in zip(ids, rows, strict=True)
    ]


def make_model(directory: Path, kind: str, num_labels: int, seed: int) -> PreTrainedModel:
    """The model with a head for classification.

    Raises:
        SystemExit: The directory lacks weights of the encoder, which would be random in silence.
    """
    set_seed(seed)
    config = AutoConfig.from_pretrained(directory, num_labels=num_labels)
    if kind != KINDS[0]:
        return AutoModelForSequenceClassification.from_config(config)
    model, said = AutoModelForSequenceClassification.from_pretrained(
        directory, config=config, output_loading_info=True
    )
    anew = [name for name in said["missing_keys"] if not set(HEAD) & set(name.split("."))]
    if anew:
        raise SystemExit(f"{directory} lacks {', '.join(anew)}: is it an exported model?")
    return model


def best_rate(contest: Contest, kind: str, rows: Rows) -> float:
    """The learning rate that does best on a tenth of the training rows, with the first seed."""
    rates, seed = contest.config.rates, contest.config.seeds[0]
    if len(rates) == 1:
        return rates[0]
    tenth = len(rows) // 10
    held, rest = rows[:tenth], rows[tenth:]
    return max(rates, key=lambda rate: accuracy(contest, kind, rest, held, rate, seed))


def accuracy(contest: Contest, kind: str, train: Rows, test: Rows, rate: float, seed: int) -> float:
    """Share of `test` that is right after training on `train`; the last weights are taken."""
    config = contest.config
    model = make_model(contest.directory, kind, contest.num_labels, seed)
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
            data_collator=DataCollatorWithPadding(contest.tokenizer),
            compute_metrics=lambda found: {
                "right": float((found.predictions.argmax(-1) == found.label_ids).mean())
            },
        )
        trainer.train()
        right = float(trainer.evaluate()["eval_right"])
    print(f"{kind}, rate {rate:g}, seed {seed}: {right:.2%}", file=sys.stderr, flush=True)
    return right


if __name__ == "__main__":
    main()
