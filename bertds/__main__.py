"""`python -m bertds COMMAND`: work with case files and runs.

Each command imports only what it needs: `report` starts in a second, without torch.
"""

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from bertds import cli
from bertds.downstream.commands import finetune, probe
from bertds.errors import ConfigError


def evaluate(
    run_dir: Path,
    data: str = "data",
    checkpoint: str = "latest",
    average: str = "",
    ema: bool = False,
    valid: str = "",
    sequences: Path | None = None,
) -> None:
    """Compute the validation metrics of a checkpoint, as training logged them, or of a model.

    Args:
        run_dir: The run's directory, such as runs/case11/batch64_cosine; or a Hugging Face directory,
            which needs --valid.
        data: Directory or URL that the names of datasets are relative to.
        checkpoint: latest, best, or a step such as 1000.
        average: Use the mean of the weights of several checkpoints: the last ones, such as 3, or steps,
            such as 1000,1500.
        ema: Use the moving average of the weights that training kept with run.ema_decay.
        valid: A shard set to validate on instead of the run's own sets, such as corpus/valid.
        sequences: Also write the sums of each validation sequence to this file (.npz).
    """
    from bertds.inference.evaluate import open_evaluation, open_model_evaluation
    from bertds.inference.sequence_sums import sequence_sums, write_sequence_sums
    from bertds.runs.trained_run import TrainedRun

    is_model = (run_dir / "config.json").is_file()
    if is_model and not valid:
        raise ConfigError(
            f"--valid is missing: {run_dir} is a model, so name a shard set to validate it on"
        )
    if is_model and (average or ema):
        raise ConfigError(
            f"--average and --ema need a run, but {run_dir} is a model: leave them out"
        )
    facts: dict[str, object] = {}
    if is_model:
        evaluation = open_model_evaluation(run_dir, data, valid)
    else:
        trained = TrainedRun.open(run_dir, checkpoint, average, ema=ema)
        evaluation, facts = open_evaluation(trained, data, valid), trained.facts()
    metrics = evaluation.metrics()
    if sequences is not None:
        write_sequence_sums(sequences, sequence_sums(evaluation, evaluation.tokenizer))
    width = max(map(len, metrics))
    for name, fact in facts.items():
        print(f"{name:<{width}}  {fact}")
    for tag, value in metrics.items():
        print(f"{tag:<{width}}  {value!r}")


def export(
    run_dir: Path,
    out: Path,
    checkpoint: str = "latest",
    average: str = "",
    ema: bool = False,
    push_to_hub: str = "",
    private: bool = False,
    base_model: str = "",
) -> None:
    """Export a run as a Hugging Face directory, and upload it to the Hub if --push_to_hub is given.

    Args:
        run_dir: The run's directory, such as runs/case11/batch64_cosine.
        out: The directory to create.
        checkpoint: latest, best, or a step such as 1000.
        average: Use the mean of the weights of several checkpoints: the last ones, such as 3, or steps,
            such as 1000,1500.
        ema: Use the moving average of the weights that training kept with run.ema_decay.
        push_to_hub: Name of a repository of the Hub, such as USER/NAME; created if it does not exist.
        private: With --push_to_hub, create a private repository.
        base_model: Name on the Hub of the model in run.init_from, for the model card.
    """
    from bertds.inference.export import export as write
    from bertds.runs.trained_run import TrainedRun

    if private and not push_to_hub:
        raise ConfigError("--private needs --push_to_hub: a directory has no visibility")
    if push_to_hub:
        from bertds.huggingface.hub import check_repo_name

        check_repo_name(push_to_hub)
    trained = TrainedRun.open(run_dir, checkpoint, average, ema=ema)
    if base_model and not trained.init_from:
        raise ConfigError(
            f"--base_model is {base_model!r}, but {run_dir} began with random weights: remove the flag"
        )
    write(trained, out, push_to_hub, base_model)
    print(out)
    if push_to_hub:
        from bertds.huggingface.hub import push_to_hub as upload

        print(upload(out, push_to_hub, private=private))


def fill(
    run_dir: Path,
    text: str,
    checkpoint: str = "latest",
    average: str = "",
    ema: bool = False,
    top: int = 5,
) -> None:
    """Print the most likely tokens for each [MASK] in a text.

    Args:
        run_dir: The run's directory, such as runs/case11/batch64_cosine.
        text: The text, which becomes one sequence.
        checkpoint: latest, best, or a step such as 1000.
        average: Use the mean of the weights of several checkpoints: the last ones, such as 3, or steps,
            such as 1000,1500.
        ema: Use the moving average of the weights that training kept with run.ema_decay.
        top: Number of tokens for each [MASK].
    """
    from bertds.inference.fill_mask import fill as predict
    from bertds.inference.fill_mask import table
    from bertds.runs.trained_run import TrainedRun

    trained = TrainedRun.open(run_dir, checkpoint, average, ema=ema)
    print(table(predict(trained, trained.model(), text, top)))


def report(
    case_dir: Path,
    *runs: Path,
    out: Path | None = None,
    format: Literal["png", "svg", "pdf"] = "png",
) -> None:
    """Write the report of a case, of all cases in a directory, or of any runs (with --out).

    The files are record.md, record.html and plots.

    Args:
        case_dir: The case's directory, such as runs/case11, or its parent, such as runs. With --out,
            any directory that is a run or has runs below it.
        runs: More such directories, to compare their runs with each other; needs --out.
        out: Directory for the comparison of all these runs.
        format: Format of a second copy of the plots; png is always written.
    """
    from bertds.report.case_report import write_report
    from bertds.report.comparison import write_comparison
    from bertds.report.index import case_directories, write_index

    if runs and out is None:
        raise ConfigError(
            "--out is missing: a comparison of several directories needs a directory of its own"
        )
    if out is not None:
        comparison = write_comparison([case_dir, *runs], out, format)
        for remark in comparison.remarks:
            print(remark, file=sys.stderr)
        case = comparison.files
        paths = [case.record, case.page, *case.plots]
    elif case_directories(case_dir):
        index = write_index(case_dir, format)
        paths = [index.record, index.page, *(case.page for case in index.cases)]
    else:
        case = write_report(case_dir, format)
        paths = [case.record, case.page, *case.plots]
    for path in paths:
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
    """Estimate the resources of a run: memory by ZeRO stage, micro-batch, steps, data, hours.

    Args:
        ds_config: The case file.
        gpus: Total number of GPUs, one process each.
        gpu: v100, a100, h100, h200, b200, l4 or 4090.
        arm: One of its arms; the first if not given.
        data: Directory or URL that the names of datasets are relative to.
        set: Changes to the case, as 'a.b=value,…'; may be repeated.
        gpus_per_node: Number of GPUs of a host.
        mfu: Assumed model FLOPs utilization (MFU), a fraction of the GPU's peak.
        vocab_size: Size of the vocabulary, if the shards do not exist yet.
        sequences: Sequences of an epoch, if the shards do not exist yet.
        mean_length: Mean tokens of a sequence, if the shards do not exist yet. Default: the longest
            allowed.
    """
    from bertds.config.case import select_arms
    from bertds.planner.corpus import corpus_of
    from bertds.planner.plan import GPUS, make_plans, stage_table, table
    from bertds.runs.case_file import read_case

    if gpu not in GPUS:
        raise ConfigError(f"--gpu is {gpu!r}, expected one of {', '.join(GPUS)}")
    if gpus < 1 or gpus_per_node < 1:
        raise ConfigError(
            f"--gpus is {gpus} and --gpus_per_node is {gpus_per_node}, expected at least 1"
        )
    if not 0 < mfu <= 1:
        raise ConfigError(f"--mfu is {mfu}, expected more than 0 and at most 1")
    first = select_arms(ds_config, arm)[0]
    case = read_case(first.path, first.run_arm, set)
    corpora = [
        corpus_of(stage, data, sequences=sequences, mean_length=mean_length, vocab_size=vocab_size)
        for stage in case.stages or (case,)
    ]
    plans = make_plans(case, corpora, gpus, GPUS[gpu], mfu)
    if case.stages:
        print(stage_table(plans), end="\n\n")
    print("\n\n".join(table(each, gpus_per_node) for each in plans))


def check(ds_config: Path, arm: str = "", set: str = "") -> None:
    """Check a case file without data, and report all of its mistakes at once.

    Args:
        ds_config: The case file.
        arm: One of its arms; all of them if not given.
        set: Changes to the case, as 'a.b=value,…'; may be repeated.
    """
    from bertds.config.case import select_arms

    with _quiet_deepspeed():
        from bertds.training.case_check import check_cases
    arms = select_arms(ds_config, arm)
    for warning in check_cases(dict.fromkeys((each.path, each.run_arm) for each in arms), set):
        print(f"warning: {warning}")
    print(f"{ds_config}: no mistakes (arms: {', '.join(each.name for each in arms)})")


def convert(weights: Path, out: Path) -> None:
    """Convert pickled weights to safetensors, which all other commands read.

    Only tensors are read: code in the file is not run.

    Args:
        weights: pytorch_model.bin, or pytorch_model.bin.index.json of weights in several files.
        out: The directory to create, with copies of the configuration and the tokenizer.
    """
    from bertds.huggingface.convert import convert as write

    names = write(weights, out)
    print(f"{out}: {', '.join(names)}")


def import_config(file: Path, out: Path) -> None:
    """Convert the DeepSpeed configuration of another program to a case file.

    Prints for each key whether it was kept, changed, dropped or added, and why.

    Args:
        file: The configuration, for example of transformers or Megatron-DeepSpeed.
        out: The case file to create.
    """
    with _quiet_deepspeed():
        from bertds.engine.import_config import import_config as convert
    from bertds.io.json_files import write_json

    if out.exists():
        raise ConfigError(f"--out {out} exists: choose another file, or delete it")
    conversion = convert(file)
    write_json(out, conversion.content)
    for line in conversion.lines():
        print(line)
    print(
        f"{out}: adapt bertds.model, bertds.data and bertds.run, then run python -m bertds check {out}"
    )


def init(from_: Path, data: Path, out: Path) -> None:
    """Write a case that continues a Hugging Face model on other text.

    Prints the reason for each value.

    Args:
        from_: The Hugging Face directory, as hf download NAME --local-dir DIR makes it.
        data: Directory with the shard sets train and valid, made with the model's tokenizer.
        out: The case file to create.
    """
    import torch

    from bertds.config.schema import ModelConfig
    from bertds.data.shards.format import TOKENIZER_NAME
    from bertds.data.tokenizer import Tokenizer
    from bertds.huggingface.pretrained import open_pretrained
    from bertds.io.json_files import write_json
    from bertds.planner.continued_case import continued_case

    if out.exists():
        raise ConfigError(f"--out {out} exists: choose another file, or delete it")
    if data.name in ("", ".."):  # names of shard sets are relative to the directory above
        data = data.resolve()
    case = continued_case(from_, data, bf16=torch.cuda.is_available())
    model = ModelConfig.model_validate(case.content["bertds"]["model"])
    open_pretrained(from_, model, Tokenizer.load(data / "train" / TOKENIZER_NAME))
    write_json(out, case.content)
    for reason in case.reasons:
        print(reason)
    flags = shlex.join(["--ds_config", str(out), "--data", str(data.parent)])
    print(f"{out}: train with deepspeed launch/train.py {flags}")


@contextlib.contextmanager
def _quiet_deepspeed() -> Iterator[None]:
    """Import DeepSpeed without its log line about the device."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


COMMANDS: dict[str, cli.Command] = {
    "check": check,
    "convert": convert,
    "evaluate": evaluate,
    "export": export,
    "fill": fill,
    "finetune": finetune,
    "import-config": import_config,
    "init": init,
    "plan": plan,
    "probe": probe,
    "report": report,
}


def main(name: str = "bertds") -> int:
    """Run the command that the arguments name; entry point of the installed script `bertds`."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    return cli.run(name, COMMANDS)


if __name__ == "__main__":
    sys.exit(main("python -m bertds"))
