"""Makes what both programs train on: one tokenizer, shards for ours, a text file for the peer."""

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speedrun.setting import ROOT, SEQ_LEN, VALID_SEQUENCES, VOCABULARY_MERGES
from bertds.config.schema import ModelConfig
from bertds.data.tokenizer import Tokenizer
from bertds.huggingface.tokenizer import standalone_tokenizer, tokenizer_config


@dataclass(frozen=True, slots=True)
class SpeedrunData:
    """A directory with all of it."""

    directory: Path

    @property
    def shards(self) -> Path:
        """The sets `speedrun/train` and `speedrun/valid` are below it."""
        return self.directory / "shards"

    @property
    def tokenizer(self) -> Path:
        """A directory that transformers reads."""
        return self.directory / "tokenizer"

    @classmethod
    def make(cls, directory: Path, train: Path, valid: Path) -> "SpeedrunData":
        """Make it from two text files with a sequence on each line; what is finished is kept."""
        data = cls(directory)
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "tokenizer.json"
        merges = ["--merges", str(VOCABULARY_MERGES), "--lowercase"]
        _data_prep("tokenizer", "--input", str(train), *merges, "--out", str(file))
        _data_prep("shard", "--input", str(train), "--valid", str(_first_lines(valid, directory)),
                   "--tokenizer", str(file), "--seq_len", str(SEQ_LEN),
                   "--out", str(data.shards / "speedrun"))  # fmt: skip
        _write_tokenizer(Tokenizer.load(file), data.tokenizer)
        (directory / "train.txt").write_text(_read(train), encoding="utf-8")
        return data


def _data_prep(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "data_prep", *arguments], check=True, cwd=ROOT)


def _read(path: Path) -> str:
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8").read()


def _first_lines(path: Path, directory: Path) -> Path:
    """The validation text: as many lines as sequences are scored."""
    short = directory / "valid.txt"
    lines = _read(path).splitlines(keepends=True)[:VALID_SEQUENCES]
    short.write_text("".join(lines), encoding="utf-8")
    return short


def _write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write it so that transformers gives a line the same ids as the shards have."""
    directory.mkdir(exist_ok=True)
    standalone = standalone_tokenizer(tokenizer, add_special_tokens=True)
    (directory / "tokenizer.json").write_bytes(standalone.content)
    sizes = {"hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = ModelConfig(**sizes, intermediate_size=2, max_position_embeddings=SEQ_LEN)
    settings = tokenizer_config(tokenizer, model)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
