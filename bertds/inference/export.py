"""Exports a run as a Hugging Face directory: weights, config, tokenizer, model card.

A run that continues a Hugging Face model exports that model: its tokenizer, and every key and tensor
that training did not use, are the source's.

`AutoModelForMaskedLM`, `AutoTokenizer` and `pipeline("fill-mask")` load it without any bertds code,
and compute equal logits. Export does not need transformers. Peak memory is at most twice the size
of the fp32 model.
"""

import json
import os
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bertds.huggingface.architectures import architecture_of
from bertds.huggingface.config import config_json
from bertds.huggingface.source_model import SourceModel
from bertds.huggingface.tokenizer import standalone_tokenizer, tokenizer_config
from bertds.huggingface.weights import to_hf_state_dict
from bertds.io.atomic import atomic_directory
from bertds.runs.trained_run import TrainedRun
from bertds.tracking.jsonl import read_metrics


def export(trained: TrainedRun, out: Path) -> None:
    """Write a Hugging Face directory atomically: it gets its name when it is complete.

    Args:
        trained: The run and its checkpoint.
        out: A directory that does not exist or is empty.

    Raises:
        ConfigError: No Hugging Face class computes the same function as the run's model.
        FileExistsError: `out` exists and is not empty.
        OSError: The disk is full; then nothing is left of the directory.
        CheckpointError: The checkpoint holds the weights of another model.
    """
    config, tokenizer = trained.case.bertds.model, trained.tokenizer
    content = config_json(config, tokenizer.vocab_size, tokenizer.special_ids)
    source = SourceModel.of_run(trained.run_dir)
    with atomic_directory(out) as draft:
        weights = to_hf_state_dict(trained.model(), tokenizer.special_ids["pad"])
        tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
        if source:
            content, tensors = source.config(content), source.tensors() | tensors
        _write_json(draft / "config.json", content)
        file = draft / "model.safetensors"
        _save(tensors, file)
        # safetensors makes it readable by its owner only.
        file.chmod((draft / "config.json").stat().st_mode)
        if source:
            for path in source.tokenizer_files:
                shutil.copyfile(path, draft / path.name)
        else:
            _write_tokenizer(trained, draft)
        (draft / "README.md").write_text(model_card(trained), encoding="utf-8")


def _write_tokenizer(trained: TrainedRun, draft: Path) -> None:
    """Write a tokenizer that gives a text the ids that it has in training."""
    tokenizer, config = trained.tokenizer, trained.case.bertds.model
    standalone = standalone_tokenizer(
        tokenizer,
        add_special_tokens=trained.metadata["special_tokens"],
        pair_separators=architecture_of(config).pair_separators,
    )
    (draft / "tokenizer.json").write_bytes(standalone.content)
    settings = tokenizer_config(tokenizer, config)
    _write_json(draft / "tokenizer_config.json", settings)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file; the library has its own error for a full disk."""
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_card(trained: TrainedRun) -> str:
    """The README of an exported model: architecture, training, metrics, data, and the case.

    Licence and language are left to the user.
    """
    case = trained.case
    versions = ", ".join(f"{name} {version}" for name, version in trained.versions.items())
    summary = (
        f"{case.bertds.title or 'A masked-language model'}: "
        f"`{architecture_of(case.bertds.model).name}` with {trained.metadata['parameters']:,} "
        f"parameters, pre-trained with bertds for {trained.checkpoint.step:,} steps of "
        f"{case.train_batch_size} sequences in {trained.precision} ({versions})."
    )
    (mask,) = trained.tokenizer.tokens([trained.tokenizer.special_ids["mask"]])
    usage = (
        "```python\nfrom transformers import pipeline\n\n"
        f'fill = pipeline("fill-mask", "this/directory")\nfill("… {mask} …")\n```'
    )
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: fill-mask\n---",
        f"# {case.name}/{case.arm}",
        summary,
        "Licence and language: to be added by the publisher.",
        "## Use\n\n" + usage,
        "## Metrics\n\n" + _metrics_table(trained),
        "## Data\n\n" + _data_table(trained),
        "## Case\n\n```json\n" + json.dumps(case.resolved, indent=2, ensure_ascii=False) + "\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _metrics_table(trained: TrainedRun) -> str:
    """The validation metrics that training logged at the checkpoint's step."""
    step = trained.checkpoint.step
    lines = read_metrics(trained.run_dir / "metrics.jsonl")
    validations = [line for line in lines if line["step"] == step and "loss/valid" in line]
    if not validations:
        return f"Step {step:,} was not validated."
    rows = [
        f"| {tag} | {value:.4f} |"
        for tag, value in validations[-1].items()
        if tag.startswith(("loss/valid", "acc/valid"))
    ]
    note = "Means over masked tokens, losses in nats. Every validation uses the same masks."
    return "\n".join([f"| step {step:,} | |", "|---|---|", *rows, "", note])


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
