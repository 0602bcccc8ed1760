"""The commands `finetune` and `probe` of `python -m bertds`. What they need is imported when they run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bertds.errors import ConfigError

if TYPE_CHECKING:
    from bertds.downstream.examples import TaskData
    from bertds.downstream.tasks import Task


def finetune(
    model: Path,
    task: str = "",
    data: Path | None = None,
    train: Path | None = None,
    valid: Path | None = None,
    kind: Literal["classification", "pair", "regression", "tokens"] | None = None,
    text_column: str = "",
    pair_column: str = "",
    label_column: str = "",
    metrics: str = "",
    rates: str = "3e-5,1e-4,3e-4",
    seeds: str = "0,1,2",
    epochs: float = 3.0,
    batch: int = 32,
    max_length: int = 0,
    from_scratch: bool = False,
    limit: int | None = None,
    checkpoint: str = "latest",
    name: str = "",
    out: Path | None = None,
) -> None:
    """Fine-tune an encoder on a task, with several learning rates and seeds, and print its scores.

    Needs pip install 'bertds[finetune]'. Run the same command again to resume it; with more rates or
    seeds, only the new ones are trained.

    Args:
        model: A run's directory, which is exported first, or a Hugging Face directory.
        task: A task of GLUE, SuperGLUE or KLUE, such as glue/sst2, super_glue/boolq or klue/ynat.
        data: A directory with the splits train and validation, written by save_to_disk of Hugging Face
            datasets or with files train.* and validation.*; with --task glue/sst2 also one with
            glue/sst2 inside.
        train: Instead of --data, a file with columns: .tsv, .csv, .jsonl or .parquet.
        valid: The file to choose the learning rate with, and to score on.
        kind: Without --task, what is predicted: a label of a text (classification), a label of two
            texts (pair), a number (regression), or a tag of each word (tokens).
        text_column: Column of the text. The default is text; for tokens it is tokens, a list of words.
        pair_column: Column of the second text. The default for pairs is text_pair.
        label_column: Column of the label. The default is label; for tokens it is tags.
        metrics: Without --task, metrics, comma-separated, such as accuracy,f1_macro. The default is accuracy;
            Pearson's and Spearman's correlations for a regression, F1 of entities for BIO tags.
        rates: Learning rates to try, comma-separated.
        seeds: Seeds to try with each rate, comma-separated.
        epochs: Epochs of each training. There is no early stopping.
        batch: Examples of a batch.
        max_length: Longest sequence in tokens; 0 is the model's maximum, but at most 512.
        from_scratch: Start from random weights: the baseline that shows what pre-training gives.
        limit: Use only this many examples of each set, the first ones.
        checkpoint: Of a run: latest, best, or a step such as 1000.
        name: Name of the results. The default is that of the task or of the training file.
        out: Directory for finetune/NAME.json. The default is the model's directory.
    """
    from bertds.downstream.finetune import Grid, open_encoder, scores_path, table
    from bertds.downstream.finetune import finetune as run_trials
    from bertds.downstream.tasks import task_of_files
    from bertds.downstream.trial import Recipe, import_transformers

    grid = Grid.of(rates, seeds)
    for flag, value in (("--epochs", epochs), ("--batch", batch), ("--limit", limit)):
        if value is not None and not value > 0:
            raise ConfigError(f"{flag} is {value}, expected more than 0")
    if max_length < 0:
        raise ConfigError(f"--max_length is {max_length}, expected 0 or more")
    import_transformers()
    if task:
        _exclude(
            "--task", {"--train": train, "--valid": valid, "--kind": kind, "--metrics": metrics}
        )
        content, default = _read_task(task, data, limit)
    elif kind is None:
        raise ConfigError(
            "give --task and --data, or --kind with --train and --valid, or with --data"
        )
    else:
        own = task_of_files(kind, text_column, pair_column, label_column, metrics)
        content, default = _read_own(own, data, train, valid, limit)
    recipe = Recipe(epochs=epochs, batch=batch, max_length=max_length, from_scratch=from_scratch)
    with open_encoder(model, checkpoint) as encoder:
        full_name = name or default + ("-from_scratch" if from_scratch else "")
        path = scores_path(out or encoder.home, full_name)
        scores = run_trials(encoder, content, recipe, grid, path)
    print(table(scores))
    print(path)


def _read_task(name: str, data: Path | None, limit: int | None) -> tuple["TaskData", str]:
    """The data of a task that has a name, and a name for its results."""
    from bertds.downstream.examples import data_of_directory
    from bertds.downstream.tasks import task_by_name

    if data is None:
        raise ConfigError(f"--data is missing: it is the directory of {name}")
    directory = data / name if (data / name).is_dir() else data
    return data_of_directory(task_by_name(name), directory, limit), name.replace("/", "-")


def _read_own(
    task: "Task", data: Path | None, train: Path | None, valid: Path | None, limit: int | None
) -> tuple["TaskData", str]:
    """The data of the user's own task, and a name for its results."""
    from bertds.downstream.examples import data_of_directory, data_of_files

    if data is not None:
        _exclude("--data", {"--train": train, "--valid": valid})
        return data_of_directory(task, data, limit), data.resolve().name
    if train is None or valid is None:
        raise ConfigError("--train and --valid are files, and both are needed; or give --data")
    return data_of_files(task, train, valid, limit), train.stem


def _exclude(flag: str, others: Mapping[str, object]) -> None:
    given = [name for name, value in others.items() if value]
    if given:
        raise ConfigError(f"{given[0]} does not go with {flag}: leave one out")


def probe(model: Path, text: Path, checkpoint: str = "latest", limit: int | None = None) -> None:
    """Print the pseudo-perplexity and the bits per character of a text file.

    Each token is masked alone and predicted from the rest of its line (Salazar et al., 2020). The time
    grows with the square of the length of a line.

    Args:
        model: A run's directory, or a Hugging Face directory.
        text: A text file in UTF-8, one sequence on each line; .gz is decompressed.
        checkpoint: Of a run: latest, best, or a step such as 1000.
        limit: Read only this many lines.
    """
    from bertds.inference.probe import open_probe, read_lines

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}, expected at least 1")
    result = open_probe(model, checkpoint).score(read_lines(text, limit))
    print(result.table())
