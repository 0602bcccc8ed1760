"""`python -m bertds COMMAND`: what is done with runs, without DeepSpeed.

Each command imports what it needs: a report is drawn in a second, without torch.
"""

import logging
import sys
from pathlib import Path

from bertds import cli
from bertds.errors import ConfigError


def evaluate(run_dir: Path, data: str = "data", checkpoint: str = "latest") -> None:
    """Validate a run: the figures that training logged, for one of its checkpoints.

    Args:
        run_dir: The run's directory, such as runs/case11/batch64_cosine.
        data: Directory or URL that the names of shard sets are relative to.
        checkpoint: latest, best, or a step such as 1000.
    """
    from bertds.inference.evaluate import evaluate as figures_of
    from bertds.runs.trained_run import TrainedRun

    trained = TrainedRun.open(run_dir, checkpoint)
    figures = figures_of(trained, data)
    width = max(map(len, figures))
    print(f"{'step':<{width}}  {trained.checkpoint.step}")
    for tag, value in figures.items():
        print(f"{tag:<{width}}  {value!r}")


def export(run_dir: Path, out: Path, checkpoint: str = "latest") -> None:
    """Write a run as a Hugging Face directory.

    Args:
        run_dir: The run's directory, such as runs/case11/batch64_cosine.
        out: The directory to make.
        checkpoint: latest, best, or a step such as 1000.
    """
    from bertds.inference.export import export as write
    from bertds.runs.trained_run import TrainedRun

    write(TrainedRun.open(run_dir, checkpoint), out)
    print(out)


def fill(run_dir: Path, text: str, checkpoint: str = "latest", top: int = 5) -> None:
    """Print the most likely tokens for each [MASK] of a text.

    Args:
        run_dir: The run's directory, such as runs/case11/batch64_cosine.
        text: What to complete, one sequence.
        checkpoint: latest, best, or a step such as 1000.
        top: How many tokens.
    """
    from bertds.inference.fill_mask import fill as guesses_of
    from bertds.inference.fill_mask import table
    from bertds.runs.trained_run import TrainedRun

    trained = TrainedRun.open(run_dir, checkpoint)
    print(table(guesses_of(trained, trained.model(), text, top)))


def report(case_dir: Path) -> None:
    """Draw a case, or all cases of a directory: record.md, record.html and plots.

    Args:
        case_dir: The case's directory, such as runs/case11, or the one above it, runs.
    """
    from bertds.report.case_report import write_report
    from bertds.report.index import case_directories, write_index

    if case_directories(case_dir):
        everything = write_index(case_dir)
        written = [everything.record, everything.page, *(one.page for one in everything.cases)]
    else:
        one = write_report(case_dir)
        written = [one.record, one.page, *one.plots]
    for path in written:
        print(path)


def plan(
    ds_config: Path,
    gpus: int,
    gpu: str = "h100",
    arm: str = "",
    data: str = "data",
    set: str = "",
    gpus_per_node: int = 8,
    mfu: float = 0.4,
    vocab_size: int | None = None,
    sequences: int | None = None,
    mean_length: float | None = None,
) -> None:
    """Lay a run out on paper: memory of each ZeRO stage, micro-batch, steps, data, hours.

    Args:
        ds_config: The case file.
        gpus: All GPUs, one process each.
        gpu: v100, a100, h100, h200, b200, l4 or 4090.
        arm: One of its arms; the first if not given.
        data: Directory or URL that the names of shard sets are relative to.
        set: Changes, as 'a.b=value,…'.
        gpus_per_node: GPUs of one host.
        mfu: Share of the peak that the model is taken to reach.
        vocab_size: Where the shards are not there yet: ids of the vocabulary.
        sequences: And sequences of an epoch.
        mean_length: And tokens of a sequence; the longest ones' if not given.
    """
    from bertds.config.case import read_case, select_arms
    from bertds.planner.corpus import corpus_of
    from bertds.planner.plan import GPUS, make_plan, table

    if gpu not in GPUS or gpus < 1 or gpus_per_node < 1 or not 0 < mfu <= 1:
        raise ConfigError(
            f"--gpus {gpus} --gpu {gpu} --gpus_per_node {gpus_per_node} --mfu {mfu}: wanted are "
            f"numbers from 1, one of {', '.join(GPUS)}, and a share above 0 and up to 1"
        )
    first = select_arms(ds_config, arm)[0]
    case = read_case(first.path, first.run_arm, set)
    corpus = corpus_of(
        case, data, sequences=sequences, mean_length=mean_length, vocab_size=vocab_size
    )
    print(table(make_plan(case, corpus, gpus, GPUS[gpu], mfu), gpus_per_node))


COMMANDS: dict[str, cli.Command] = {
    "evaluate": evaluate,
    "export": export,
    "fill": fill,
    "plan": plan,
    "report": report,
}


def main(name: str = "bertds") -> int:
    """Run what the command line asks; `bertds` is the installed script."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    return cli.run(name, COMMANDS)


if __name__ == "__main__":
    sys.exit(main("python -m bertds"))
