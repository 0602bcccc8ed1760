"""Fine-tunes a model on a task with a grid of learning rates and seeds, and keeps the scores in a file."""

import hashlib
import logging
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertds.downstream.examples import TaskData
from bertds.downstream.trial import FineTuning, Recipe
from bertds.errors import ConfigError
from bertds.inference.export import export
from bertds.runs.downstream_scores import (
    DIRECTORY,
    DownstreamScores,
    read_scores,
    shown,
)
from bertds.runs.trained_run import TrainedRun

logger = logging.getLogger("bertds")
CHOICE_NOTE = (
    "The learning rate is chosen on the validation data over all seeds, and these are scores on the same "
    "data: mean ± standard deviation over the seeds."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The learning rates and seeds to try, each with each."""

    rates: Sequence[float]
    seeds: Sequence[int]

    @classmethod
    def of(cls, rates: str, seeds: str) -> "Grid":
        """Parse the values of `--rates` and `--seeds`.

        Raises:
            ConfigError: They are not numbers, or a rate is not positive.
        """
        found = cls(rates=_numbers("--rates", rates, float), seeds=_numbers("--seeds", seeds, int))
        if not all(0 < rate < float("inf") for rate in found.rates):
            raise ConfigError(f"--rates is {rates!r}, expected positive numbers")
        return found


def _numbers(flag: str, text: str, kind: type) -> list[Any]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{flag} is {text!r}, expected numbers such as 1,2,3") from error
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"{flag} is {text!r}, and has a number twice")
    return numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """A Hugging Face directory, and the step of the run that it was exported from."""

    directory: Path
    home: Path
    """Where its results are: the run, or the directory itself."""
    step: int | None = None

    def fingerprint(self, *, weights: bool) -> str:
        """A hash of what fine-tuning takes from the directory."""
        digest = hashlib.sha256()
        names = ["config.json", "tokenizer.json"]
        names += ["*.safetensors", "*.bin"] if weights else []
        for path in (path for name in names for path in sorted(self.directory.glob(name))):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:32]


@contextmanager
def open_encoder(model: Path, checkpoint: str) -> Iterator[Encoder]:
    """Take a Hugging Face directory as it is; export a run to a temporary one.

    Raises:
        ConfigError: It is neither, or the run cannot be exported.
    """
    if (model / "config.json").is_file():
        yield Encoder(directory=model, home=model)
        return
    trained = TrainedRun.open(model, checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "exported"
        export(trained, directory)
        yield Encoder(directory=directory, home=trained.run_dir, step=trained.checkpoint.step)


def finetune(
    encoder: Encoder, data: TaskData, recipe: Recipe, grid: Grid, path: Path
) -> DownstreamScores:
    """Run the trials of a grid that a file of results lacks, and add each to it.

    Args:
        encoder: The model.
        data: The task.
        recipe: What the trials share.
        grid: Learning rates and seeds.
        path: The file; `scores_path` gives its name.

    Raises:
        ConfigError: The file has the results of other settings.
    """
    settings = _settings(encoder, data, recipe)
    scores = _earlier(path, settings)
    todo = [
        (rate, seed) for seed in grid.seeds for rate in grid.rates if not scores.has(rate, seed)
    ]
    if scores.trials:
        _tell(f"{path}: {len(scores.trials)} trials are done")
    if not todo:
        return scores
    tuning = FineTuning.open(encoder.directory, data, recipe)
    _warn_of_cuts(tuning)
    for number, (rate, seed) in enumerate(todo, 1):
        trial = tuning.run(rate, seed)
        scores = replace(scores, trials=(*scores.trials, trial))
        scores.write(path)
        values = ", ".join(f"{name} {value:.4f}" for name, value in trial.scores.items())
        _tell(
            f"trial {number} of {len(todo)}: rate {rate:g}, seed {seed}: {values} "
            f"({trial.seconds:.0f} s)"
        )
    return scores


def _tell(line: str) -> None:
    """Show progress on standard error."""
    tqdm.write(line, file=sys.stderr)


def scores_path(home: Path, name: str) -> Path:
    """The file of the results of this name.

    Raises:
        ConfigError: The name is not plain.
    """
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise ConfigError(f"--name is {name!r}, expected letters, digits, _.+-")
    return home / DIRECTORY / f"{name}.json"


def table(scores: DownstreamScores) -> str:
    """The scores of each rate, with the best one marked, and a note on how it was chosen."""
    best = scores.best()[0].rate
    rows = [["rate", "seeds", *scores.metrics, ""]]
    for rate in scores.rates():
        trials = scores.of_rate(rate)
        cells = [shown(trials, metric) for metric in scores.metrics]
        rows.append([f"{rate:g}", f"{len(trials)}", *cells, "best" if rate == best else ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, CHOICE_NOTE, *_edge_note(scores.rates(), best)])


def _edge_note(rates: Sequence[float], best: float) -> list[str]:
    """Advice if a rate beyond those that were tried may be better."""
    if len(rates) < 2 or best not in (rates[0], rates[-1]):
        return []
    edge = "low" if best == rates[0] else "high"
    return [f"The best rate is the {edge}est that was tried: try {edge}er ones with --rates."]


def _earlier(path: Path, settings: dict[str, Any]) -> DownstreamScores:
    """The results that the file has already, if it is there."""
    if not path.exists():
        return DownstreamScores(settings=settings)
    scores = read_scores(path)
    keys = [key for key in settings if scores.settings.get(key) != settings[key]]
    if keys:
        changes = ", ".join(
            f"{key} {scores.settings.get(key)} (now {settings[key]})" for key in keys
        )
        raise ConfigError(
            f"{path} has results with other settings: {changes}. Choose another --name, or delete it"
        )
    return scores


def _settings(encoder: Encoder, data: TaskData, recipe: Recipe) -> dict[str, Any]:
    task = data.task
    return {
        "task": task.name or "files",
        "kind": task.kind,
        "metrics": list(task.metrics),
        "weights": "random" if recipe.from_scratch else "pre-trained",
        "step": None if recipe.from_scratch else encoder.step,
        "model": encoder.fingerprint(weights=not recipe.from_scratch),
        "data": data.fingerprint(),
        "training_examples": len(data.train),
        "validation_examples": sum(map(len, data.valid.values())),
        **{key: value for key, value in asdict(recipe).items() if key != "from_scratch"},
        "transformers": version("transformers"),
    }


def _warn_of_cuts(tuning: FineTuning) -> None:
    parts = [tuning.train, *tuning.valid.values()]
    cut, total = sum(part.num_cut for part in parts), sum(len(part.examples) for part in parts)
    if cut:
        logger.warning(
            "%d of %d examples are longer than the maximum length, and are cut", cut, total
        )
