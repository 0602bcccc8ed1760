"""A run as a Hugging Face directory: weights, config, tokenizer, model card.

`AutoModelForMaskedLM`, `AutoTokenizer` and `pipeline("fill-mask")` take it at once, without code of
ours; the logits are equal. transformers is not needed to write it. Memory is at most twice that of
the fp32 model.
"""

import json
from pathlib import Path

from safetensors.torch import save_file

from bertds.huggingface.architectures import family_of
from bertds.huggingface.config import config_json
from bertds.huggingface.tokenizer import tokenizer_config, whole_tokenizer
from bertds.huggingface.weights import to_hf_state_dict
from bertds.io.atomic import atomic_directory
from bertds.runs.trained_run import TrainedRun
from bertds.tracking.jsonl import read_metrics


def export(trained: TrainedRun, out: Path) -> None:
    """Write the directory; it has its name only when it is whole.

    Args:
        trained: The run and its checkpoint.
        out: A directory that does not exist, or is empty.

    Raises:
        ConfigError: No Hugging Face class computes what the run's model does.
        FileExistsError: There is something already.
        CheckpointError: The checkpoint holds another model.
    """
    config, tokenizer = trained.case.bertds.model, trained.tokenizer
    content = config_json(config, tokenizer.vocab_size, tokenizer.special_ids)
    with atomic_directory(out) as draft:
        weights = to_hf_state_dict(trained.model(), tokenizer.special_ids["pad"])
        tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
        _write_json(draft / "config.json", content)
        file = draft / "model.safetensors"
        save_file(tensors, file, metadata={"format": "pt"})
        file.chmod((draft / "config.json").stat().st_mode)  # the library's is its owner's alone
        whole = whole_tokenizer(tokenizer, framed=trained.metadata["special_tokens"])
        (draft / "tokenizer.json").write_bytes(whole.content)
        settings = tokenizer_config(tokenizer, config.max_position_embeddings)
        _write_json(draft / "tokenizer_config.json", settings)
        (draft / "README.md").write_text(model_card(trained), encoding="utf-8")


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_card(trained: TrainedRun) -> str:
    """The README of a model: what it is, what it was trained on, how far, and by which case.

    The licence and the language are the user's to say.
    """
    case = trained.case
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: fill-mask\n---",
        f"# {case.name}/{case.arm}",
        _summary(trained),
        "Licence and language: to be said by who publishes it.",
        "## Use\n\n" + _use(trained),
        "## Figures\n\n" + _figures(trained),
        "## Data\n\n" + _data(trained),
        "## Case\n\n```json\n" + json.dumps(case.resolved, indent=2, ensure_ascii=False) + "\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(trained: TrainedRun) -> str:
    case, versions = trained.case, ", ".join(f"{k} {v}" for k, v in trained.versions.items())
    return (
        f"{case.bertds.title or 'A masked-language model'}: `{family_of(case.bertds.model).name}` "
        f"of {trained.metadata['parameters']:,} parameters, pre-trained with bertds for "
        f"{trained.checkpoint.step:,} steps of {case.train_batch_size} sequences in "
        f"{trained.precision} ({versions})."
    )


def _use(trained: TrainedRun) -> str:
    (mask,) = trained.tokenizer.tokens([trained.tokenizer.special_ids["mask"]])
    return (
        "```python\nfrom transformers import pipeline\n\n"
        f'fill = pipeline("fill-mask", "this/directory")\nfill("… {mask} …")\n```'
    )


def _figures(trained: TrainedRun) -> str:
    """The validation of the checkpoint's step as it was logged."""
    step = trained.checkpoint.step
    lines = read_metrics(trained.run_dir / "metrics.jsonl")
    found = [line for line in lines if line["step"] == step and "loss/valid" in line]
    if not found:
        return f"Step {step:,} was not validated."
    rows = [
        f"| {tag} | {value:.4f} |"
        for tag, value in found[-1].items()
        if tag.startswith(("loss/valid", "acc/valid"))
    ]
    told = "Over masked tokens, losses in nats; the masks of validation stay the same."
    return "\n".join([f"| step {step:,} | |", "|---|---|", *rows, "", told])


def _data(trained: TrainedRun) -> str:
    train, valid = trained.metadata["train"]["sets"], trained.metadata["valid"].values()
    rows = [
        f"| {one['name']} | {use} | {one['sequences']:,} | {one['tokens']:,} |"
        for use, sets in (("training", train), ("validation", valid))
        for one in sets
    ]
    framing = "[CLS] and [SEP] around each" if trained.metadata["special_tokens"] else "no framing"
    header = ["| shard set | for | sequences | tokens |", "|---|---|---|---|"]
    length = trained.case.bertds.data.seq_len
    return "\n".join([*header, *rows, "", f"Sequences of at most {length} tokens, {framing}."])
