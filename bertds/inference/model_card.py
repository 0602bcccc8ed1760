"""The model card of an exported model: README.md with metadata for the Hugging Face Hub."""

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData, metadata_load

from bertds.huggingface.architectures import architecture_of
from bertds.metrics.baselines import baselines_by_name
from bertds.runs.trained_run import TrainedRun
from bertds.tracking.jsonl import read_metrics

LICENCE_KEYS = ("license", "license_name", "license_link")


def model_card(trained: TrainedRun, out: Path, repo: str = "", base_model: str = "") -> str:
    """Describe an exported model: use, training, validation, data, commands, and the case.

    Args:
        trained: The run and its checkpoint.
        out: The directory of the export.
        repo: Its repository on the Hub; empty if there is none.
        base_model: Name on the Hub of the model in `run.init_from`; empty if it is not known.
    """
    case = trained.case
    base_model = base_model or _name_on_hub(trained.init_from)
    licence = _licence_of(trained.init_from)
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="fill-mask",
        base_model=base_model or None,
        **licence,
    )
    dump = json.dumps(case.resolved, indent=2, ensure_ascii=False)
    sections = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {repo or f'{case.name}/{case.arm}'}",
        _summary(trained, base_model),
        _to_be_added(has_licence=bool(licence)),
        "## Use\n\n" + _usage(trained, repo or "this/directory"),
        "## Training\n\n" + _training_table(trained),
        "## Validation\n\n" + _validation_table(trained),
        "## Data\n\n" + _data_table(trained),
        "## Commands\n\n" + _commands(trained, out, repo),
        f"## Case\n\n```json\n{dump}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _name_on_hub(init_from: str) -> str:
    """The name of a model in the cache of huggingface_hub; other paths do not tell it."""
    cached = re.search(r"(?:^|/)models--([^/]+)/snapshots/", init_from)
    return cached[1].replace("--", "/") if cached else ""


def _licence_of(init_from: str) -> dict[str, Any]:
    """The licence in the model card of the initial weights, if the directory still has it."""
    card = Path(init_from).expanduser() / "README.md"
    if not init_from or not card.is_file():
        return {}
    try:
        metadata = metadata_load(card) or {}
    except (ValueError, OSError, yaml.YAMLError):
        return {}
    return {key: metadata[key] for key in LICENCE_KEYS if isinstance(metadata.get(key), str)}


def _summary(trained: TrainedRun, base_model: str) -> str:
    case = trained.case
    title = case.bertds.title or "A masked-language model"
    source = base_model or Path(trained.init_from).name
    note = f" Weights: {trained.weights_note}." if trained.weights_note else ""
    start = f", from the weights of {source}" if source else ", from random weights"
    return (
        f"{title}: `{architecture_of(case.bertds.model).name}` with "
        f"{trained.metadata['parameters']:,} parameters, pre-trained with bertds for "
        f"{trained.checkpoint.step:,} steps of {case.train_batch_size} sequences in "
        f"{trained.precision}{start}.{note}"
    )


def _to_be_added(*, has_licence: bool) -> str:
    if has_licence:
        return "The licence is that of the initial weights. Language: to be added by the publisher."
    return "Licence and language: to be added by the publisher."


def _usage(trained: TrainedRun, source: str) -> str:
    (mask,) = trained.tokenizer.tokens([trained.tokenizer.special_ids["mask"]])
    return (
        "```python\nfrom transformers import pipeline\n\n"
        f'fill = pipeline("fill-mask", "{source}")\nfill("… {mask} …")\n```'
    )


def _training_table(trained: TrainedRun) -> str:
    """What was trained until the checkpoint."""
    case, step = trained.case, trained.checkpoint.step
    lines = [
        line for line in read_metrics(trained.run_dir / "metrics.jsonl") if line["step"] == step
    ]
    progress = {key: value for line in lines for key, value in line.items()}
    planned = trained.metadata.get("num_steps")
    rows = {
        "steps": f"{step:,}" + (f" of {planned:,} planned" if planned else ""),
        "sequences of a step": f"{case.train_batch_size:,}",
        "tokens of a sequence": f"at most {case.bertds.data.seq_len:,}",
        "epochs": f"{progress['epoch']:.2f}" if "epoch" in progress else "",
        "tokens, padding excluded": f"{progress['tokens']:,.0f}" if "tokens" in progress else "",
        "precision": trained.precision,
        "ranks × device": f"{trained.world_size} × {trained.metadata.get('device', 'unknown')}",
        "versions": ", ".join(f"{name} {version}" for name, version in trained.versions.items()),
    }
    cells = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join(["| | |", "|---|---|", *cells])


def _validation_table(trained: TrainedRun) -> str:
    """The validation that training logged at the checkpoint, beside the start and the baselines."""
    if trained.weights_note:
        return "Training did not validate these weights; `python -m bertds evaluate` does."
    step = trained.checkpoint.step
    lines = read_metrics(trained.run_dir / "metrics.jsonl")
    at_step = [line for line in lines if line["step"] == step and "loss/valid" in line]
    if not at_step:
        return f"Step {step:,} was not validated."
    last = at_step[-1]
    rows = [_metrics_row(f"step {step:,}", last["loss/valid"], last["acc/valid"])]
    for tag, loss in last.items():
        kind, is_set, name = tag.partition("/valid/")
        if is_set and kind == "loss":
            rows.append(_metrics_row(name, loss, last[f"acc/valid/{name}"]))
    before = [line for line in lines if line["step"] == 0 and "loss/valid" in line]
    if before and step:
        rows.append(_metrics_row("step 0", before[-1]["loss/valid"], before[-1]["acc/valid"]))
    known: Mapping[str, Any] = trained.metadata.get("guess_without_context") or {}
    for name, values in baselines_by_name(known).items():
        rows.append(_metrics_row(f"{name} baseline", values["loss"], values["accuracy"]))
    note = (
        "Means over masked tokens, losses in nats. The perplexity is that of a masked token. Every "
        "validation uses the same masks."
    )
    if "bits_per_character/valid" in last:
        note += f" Estimated bits per character: {last['bits_per_character/valid']:.4f}."
    header = ["| | loss | perplexity | accuracy |", "|---|---|---|---|"]
    return "\n".join([*header, *rows, "", note])


def _metrics_row(name: str, loss: float, accuracy: float) -> str:
    # Above 700 nats the exponential is no float.
    perplexity = f"{math.exp(loss):,.2f}" if loss < 700 else "–"
    return f"| {name} | {loss:.4f} | {perplexity} | {accuracy:.4f} |"


def _data_table(trained: TrainedRun) -> str:
    train, valid = trained.metadata["train"]["sets"], trained.metadata["valid"].values()
    rows = [
        f"| {dataset['name']} | {use} | {dataset['sequences']:,} | {dataset['tokens']:,} |"
        for use, datasets in (("training", train), ("validation", valid))
        for dataset in datasets
    ]
    framing = "with" if trained.metadata["special_tokens"] else "without"
    header = ["| shard set | use | sequences | tokens |", "|---|---|---|---|"]
    seq_len = trained.case.bertds.data.seq_len
    note = f"Sequences of at most {seq_len} tokens, {framing} [CLS] and [SEP]."
    return "\n".join([*header, *rows, "", note])


def _commands(trained: TrainedRun, out: Path, repo: str) -> str:
    """The commands that made the model; the case below has no arms, so its only one is `main`."""
    name = trained.case.name
    train = ["deepspeed", "launch/train.py", "--ds_config", f"{name}.json", "--data", "data"]
    export = ["python", "-m", "bertds", "export", f"runs/{name}/main", "--out", out.name]
    if trained.averaged:
        export += ["--average", ",".join(str(each.step) for each in trained.averaged)]
    else:
        export += ["--checkpoint", str(trained.checkpoint.step)]
    export += ["--ema"] if trained.ema else []
    export += ["--push_to_hub", repo] if repo else []
    return "\n".join(
        [
            "```sh",
            f"# the case below is {name}.json, and data/ has the shard sets",
            shlex.join(train),
            shlex.join(export),
            "```",
        ]
    )
