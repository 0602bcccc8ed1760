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
from bertds.inference.model_card import model_card
from bertds.io.atomic import atomic_directory
from bertds.runs.trained_run import TrainedRun


def export(trained: TrainedRun, out: Path, repo: str = "", base_model: str = "") -> None:
    """Write a Hugging Face directory atomically: it gets its name when it is complete.

    Args:
        trained: The run and its checkpoint.
        out: A directory that does not exist or is empty.
        repo: For the model card, as for `model_card`.
        base_model: For the model card, as for `model_card`.

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
        card = model_card(trained, out, repo, base_model)
        (draft / "README.md").write_text(card, encoding="utf-8")


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
