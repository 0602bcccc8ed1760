"""One fine-tuning with transformers' Trainer, and its scores on the validation data.

AdamW with linear warm-up and decay, as in BERT's and RoBERTa's papers. There is no early stopping: the last
weights are scored. Equal arguments give equal scores on one machine.
"""

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bertds.downstream.encoding import EncodedExamples, encode, unit_tags
from bertds.downstream.examples import TaskData
from bertds.downstream.metrics import METRICS, Predictions
from bertds.errors import ConfigError
from bertds.runs.downstream_scores import Trial

logger = logging.getLogger("bertds")
_HEADS = {"classifier", "pre_classifier", "pooler", "head"}
"""Modules that a masked language model lacks, or has with another purpose."""
_DEFAULT_LONGEST = 512
_WARMUP, _WEIGHT_DECAY = 0.1, 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What all trials of a model share."""

    epochs: float
    batch: int
    max_length: int
    """Tokens; 0 for the model's own maximum, at most 512."""
    from_scratch: bool
    """Whether the weights are random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuning:
    """A model and a task, ready for trials."""

    directory: Path
    data: TaskData
    recipe: Recipe
    tokenizer: Any
    train: EncodedExamples
    valid: Mapping[str, EncodedExamples]

    @classmethod
    def open(cls, directory: Path, data: TaskData, recipe: Recipe) -> "FineTuning":
        """Tokenize the data with the tokenizer of a Hugging Face directory.

        Raises:
            ConfigError: The directory has no model, or packages are missing.
        """
        transformers = import_transformers()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
            config = transformers.AutoConfig.from_pretrained(directory)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{directory} is not a Hugging Face model: {error}") from error
        longest = _longest(config, tokenizer)
        if recipe.max_length > longest:
            raise ConfigError(
                f"--max_length is {recipe.max_length}, the model takes {longest} tokens"
            )
        longest = min(recipe.max_length or _DEFAULT_LONGEST, longest)
        valid = {
            suffix: encode(data, tokenizer, examples, longest)
            for suffix, examples in data.valid.items()
        }
        return cls(
            directory=directory,
            data=data,
            recipe=recipe,
            tokenizer=tokenizer,
            train=encode(data, tokenizer, data.train, longest),
            valid=valid,
        )

    def run(self, rate: float, seed: int) -> Trial:
        """Fine-tune with this learning rate and seed, and score the last weights."""
        transformers = import_transformers()
        start = time.perf_counter()
        transformers.set_seed(seed)
        with tempfile.TemporaryDirectory() as scratch:
            trainer = transformers.Trainer(
                model=self._model(),
                args=_arguments(transformers, self.recipe, rate, seed, scratch),
                train_dataset=list(self.train.features),
                data_collator=self._collator(transformers),
            )
            trainer.remove_callback(transformers.PrinterCallback)  # it prints to standard output
            trainer.train()
            scores = self._scores(trainer)
        return Trial(rate=rate, seed=seed, scores=scores, seconds=time.perf_counter() - start)

    def _model(self) -> Any:
        """The model with a new head; a fresh one if the weights are random."""
        transformers = import_transformers()
        task = self.data.task
        kind = "TokenClassification" if task.kind == "tokens" else "SequenceClassification"
        factory = getattr(transformers, f"AutoModelFor{kind}")
        settings: dict[str, Any] = {"num_labels": len(self.data.names) or 1}
        if task.kind == "regression":
            settings["problem_type"] = "regression"
        config = transformers.AutoConfig.from_pretrained(self.directory, **settings)
        if self.recipe.from_scratch:
            return factory.from_config(config)
        model, loading = factory.from_pretrained(
            self.directory, config=config, output_loading_info=True
        )
        missing = [key for key in loading["missing_keys"] if not _HEADS & set(key.split("."))]
        if missing:
            raise ConfigError(
                f"{self.directory} lacks the weights {', '.join(sorted(missing)[:5])}"
            )
        return model

    def _collator(self, transformers: Any) -> Any:
        if self.data.task.kind == "tokens":
            return transformers.DataCollatorForTokenClassification(self.tokenizer)
        return transformers.DataCollatorWithPadding(self.tokenizer)

    def _scores(self, trainer: Any) -> dict[str, float]:
        scores = {}
        for suffix, encoded in self.valid.items():
            found = self._predictions(encoded, _outputs(trainer, encoded))
            for name in self.data.task.metrics:
                scores[f"{name}{suffix}"] = METRICS[name](found)
        return scores

    def _predictions(
        self, encoded: EncodedExamples, outputs: list[npt.NDArray[Any]]
    ) -> Predictions:
        if not all(np.isfinite(each).all() for each in outputs):
            logger.warning(
                "the model predicts NaN or infinite values: the learning rate is too high"
            )
            outputs = [np.nan_to_num(each) for each in outputs]
        names = self.data.names
        if self.data.task.kind == "tokens":
            return _tag_predictions(encoded, outputs, names)
        stacked = np.stack(outputs)
        is_regression = self.data.task.kind == "regression"
        return Predictions(
            predicted=(stacked.ravel() if is_regression else stacked.argmax(-1)).astype(np.float64),
            expected=np.array([example.label for example in encoded.examples], np.float64),
            names=names,
            groups=[example.group for example in encoded.examples],
        )


def _outputs(trainer: Any, encoded: EncodedExamples) -> list[npt.NDArray[Any]]:
    """The model's output for each example; those of similar length are computed together."""
    lengths = [len(feature["input_ids"]) for feature in encoded.features]
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    found = trainer.predict([encoded.features[number] for number in order]).predictions
    logits = found[0] if isinstance(found, tuple) else found
    outputs: list[npt.NDArray[Any]] = [np.zeros(0)] * len(order)
    for number, output in zip(order, logits, strict=True):
        outputs[number] = output[: lengths[number]] if output.ndim == 2 else output
    return outputs


def _tag_predictions(
    encoded: EncodedExamples, outputs: list[npt.NDArray[Any]], names: tuple[str, ...]
) -> Predictions:
    number = {name: index for index, name in enumerate(names)}
    sequences = []
    for example, places, output in zip(encoded.examples, encoded.places, outputs, strict=True):
        assert isinstance(example.label, list)
        expected = [names[tag] for tag in example.label]
        sequences.append((unit_tags(output.argmax(-1), places, names), expected))
    predicted, wanted = (
        np.array([number.get(tag, -1) for pair in sequences for tag in pair[side]], np.float64)
        for side in (0, 1)
    )
    return Predictions(predicted=predicted, expected=wanted, names=names, sequences=sequences)


def import_transformers() -> Any:
    """Import transformers, quietly.

    Raises:
        ConfigError: It, or accelerate, is not installed.
    """
    # Its Trainer would spread a batch over all GPUs of the machine, which changes the batch.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    try:
        with _quiet_imports():
            accelerate, transformers = map(importlib.import_module, ("accelerate", "transformers"))
            accelerate.utils.extract_model_from_parallel(torch.nn.Identity())  # imports DeepSpeed
    except ImportError as error:
        raise ConfigError(
            f"finetune needs transformers and accelerate ({error}): run pip install 'bertds[finetune]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # of loading a model
    return transformers


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    """Without the log lines of packages that accelerate imports if they are there."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _longest(config: Any, tokenizer: Any) -> int:
    """The most tokens that the model takes."""
    # RoBERTa's classes count positions from the padding's id on.
    is_shifted = "roberta" in config.model_type or config.model_type == "camembert"
    places = config.max_position_embeddings - (config.pad_token_id + 1 if is_shifted else 0)
    return min(int(places), int(tokenizer.model_max_length))


def _arguments(transformers: Any, recipe: Recipe, rate: float, seed: int, scratch: str) -> Any:
    has_gpu = torch.cuda.is_available()
    return transformers.TrainingArguments(
        output_dir=scratch,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=4 * recipe.batch,
        learning_rate=rate,
        lr_scheduler_type="linear",
        warmup_steps=_WARMUP,
        weight_decay=_WEIGHT_DECAY,
        seed=seed,
        use_cpu=not has_gpu,
        dataloader_pin_memory=has_gpu,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=not sys.stderr.isatty(),
    )
