"""What `gpu.py` compares: models, sequence lengths, and real text with such lengths."""

import gzip
import json
import random
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.corpora import make_plain_arrays
from bertds.config.case import Case, read_case
from bertds.data.tokenizer import Tokenizer
from bertds.huggingface.config import config_json
from bertds.metrics.flops import model_flops_per_token

ROOT = Path(__file__).resolve().parents[2]
NO_DROPOUT = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model at one sequence length."""

    name: str
    seq_len: int
    micro: int
    """Micro-batch size of all programs."""
    words: int | None
    """Median words of a document of concatenated sentences. None: each sentence is a document."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Changes to the model of `train_step.json`. Empty: the model of case 11."""


def bert(hidden: int, layers: int) -> dict[str, Any]:
    """Return the sizes of a BERT with heads of width 64."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 4 * hidden}
    return {**sizes, "num_attention_heads": hidden // 64, "hidden_act": "gelu", **NO_DROPOUT}


MODERN = {
    "preset": "modernbert",
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
}
MODELS = (
    Model(name="bert-large@128", seq_len=128, micro=256, words=None, changes=bert(1024, 24)),
    Model(name="bert-base@512", seq_len=512, micro=64, words=150, changes=bert(768, 12)),
    Model(name="modernbert-base@1024", seq_len=1024, micro=32, words=300, changes=MODERN),
    Model(name="case11@256", seq_len=256, micro=256, words=None),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A model and its data, as the compared programs read them."""

    model: Model
    case: Path
    settings: str
    shards: Path
    arrays: Path
    hugging_face: dict[str, Any]
    """The config.json of the same model."""
    flops_per_token: float


def prepare_task(model: Model, corpus: Path, data: Path, *, tiny: bool) -> Task:
    """Write the text and shards of a model, unless they exist, and describe its task.

    Args:
        model: One of `MODELS`.
        corpus: A directory with `en.train.txt.gz`.
        data: Where to write.
        tiny: Two layers of width 32, few lines and a small vocabulary, to try the program.
    """
    directory = data / ("tiny" if tiny else "whole") / model.name
    shards = directory / "train"
    if not (shards / "index.json").exists():
        _make_shards(model, corpus, directory, tiny=tiny)
    path = ROOT / "ds_configs/case11.json"
    if model.changes:
        path = Path(__file__).with_name("train_step.json")
    settings = _settings(model, tiny=tiny)
    case = read_case(path, "main" if model.changes else "batch256_cosine", settings)
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    arrays = make_plain_arrays(shards)
    return Task(
        model=model,
        case=path,
        settings=settings,
        shards=shards,
        arrays=arrays,
        hugging_face=config_json(case.bertds.model, tokenizer.vocab_size, tokenizer.special_ids),
        flops_per_token=_flops_per_token(case, arrays, tokenizer.vocab_size),
    )


def _settings(model: Model, *, tiny: bool) -> str:
    """Return the `--set` text of a model."""
    block: dict[str, Any] = {}
    if model.changes:
        block = {"max_position_embeddings": model.seq_len, **model.changes}
    if "preset" in block:  # another preset resets the model keys of train_step.json
        block = {**dict.fromkeys(("norm", "hidden_act", *NO_DROPOUT)), **block}
    if tiny:
        block |= SMALL
    settings: dict[str, Any] = {
        **{f"model.{key}": value for key, value in block.items()},
        "data.train": [{"name": "train"}],
        "data.valid": None,
        "data.seq_len": model.seq_len,
        "run.max_steps": 1_000_000,
        "run.max_micro_batch_size": model.micro,
        "scheduler": None,
    }
    return ",".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _make_shards(model: Model, corpus: Path, directory: Path, *, tiny: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text, tokenizer = directory / "text.txt", directory / "tokenizer.json"
    lines, words = None, model.words
    if tiny:  # just enough for the batches of the peers
        lines, words = (120_000, 20) if model.words else (20_000, None)
    _write_text(corpus / "en.train.txt.gz", text, lines, words)
    merges = 500 if tiny else 28_000
    learn = ["tokenizer", f"--input={text}", f"--merges={merges}", f"--out={tokenizer}"]
    shard = ["shard", f"--input={text}", f"--tokenizer={tokenizer}", f"--out={directory}"]
    shard += [f"--seq_len={model.seq_len}", "--valid_fraction=0"]
    for command in (learn, shard):
        subprocess.run([sys.executable, "-m", "data_prep", *command], check=True)


def _write_text(source: Path, out: Path, lines: int | None, words: int | None) -> None:
    """Write sentences, or documents of consecutive sentences with log-normal lengths."""
    generator = random.Random(0)
    with gzip.open(source, "rt", encoding="utf-8") as sentences, out.open("w") as written:
        document: list[str] = []
        target = 0.0
        for sentence in islice(sentences, lines):
            document += sentence.split()
            if len(document) >= target:
                written.write(" ".join(document) + "\n")
                document, target = [], (words or 0) * generator.lognormvariate(0, 0.8)


def _flops_per_token(case: Case, arrays: Path, vocab_size: int) -> float:
    """Return the FLOPs of a non-padding token; local attention counts as global attention."""
    model = case.bertds.model
    lengths = np.load(arrays / "lengths.npy").astype(np.float64)
    return model_flops_per_token(
        hidden_size=model.hidden_size,
        num_layers=model.num_hidden_layers,
        intermediate_size=model.intermediate_size,
        glu=model.feed_forward == "glu",
        mean_length=float((lengths**2).sum() / lengths.sum()),
        vocab_size=vocab_size,
        masked_share=case.bertds.masking.ratio,
    )
