"""What a run keeps of the Hugging Face model that it continues, so that its export loses nothing.

    RUN/source_model/config.json         as in the model's directory
    RUN/source_model/tokenizer.json      and the other files of its tokenizer
    RUN/source_model/model.safetensors   tensors that our model has no place for, in fp32

They are written once, before the first checkpoint. The model's directory is not needed afterwards.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bertds.huggingface.config import read_json
from bertds.huggingface.pretrained import Pretrained
from bertds.huggingface.stored_tensors import SINGLE_FILE
from bertds.io.atomic import atomic_directory

_NAME, _CONFIG, _TOKENIZER = "source_model", "config.json", "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_VOCABULARIES = (
    _TOKENIZER,
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
_SHAPES = ("vocab_size", "type_vocab_size")
"""The keys of config.json that may differ from the source's."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """The kept files of a run."""

    directory: Path

    @classmethod
    def of_run(cls, run_dir: Path) -> "SourceModel | None":
        """Those of a run; None if it began with random weights, or before bertds kept them."""
        directory = run_dir / _NAME
        return cls(directory) if directory.is_dir() else None

    @classmethod
    def keep(cls, pretrained: Pretrained, run_dir: Path) -> None:
        """Copy what a run will need of the model it starts from.

        Raises:
            ConfigError: A file of the model cannot be read.
            OSError: The disk is full.
        """
        with _replaced(run_dir / _NAME) as draft:
            files = _files(pretrained.directory, is_extended=bool(pretrained.new_tokens))
            for path in (pretrained.directory / _CONFIG, *files):
                shutil.copyfile(path, draft / path.name)
            if pretrained.new_tokens:
                (draft / _TOKENIZER).write_bytes(pretrained.tokenizer.content)
            tensors = pretrained.unplaced_tensors()
            if tensors:
                save_file(tensors, draft / SINGLE_FILE, metadata={"format": "pt"})

    @classmethod
    def copy(cls, trunk: Path, run_dir: Path) -> None:
        """Copy what a run has kept to another one, which begins with its checkpoint.

        Raises:
            OSError: The disk is full.
        """
        source = cls.of_run(trunk)
        if source is None:
            cls.remove(run_dir)
            return
        with _replaced(run_dir / _NAME) as draft:
            for path in source.directory.iterdir():
                shutil.copyfile(path, draft / path.name)

    @classmethod
    def remove(cls, run_dir: Path) -> None:
        """Remove what a start has kept that ended before its first checkpoint."""
        if cls.of_run(run_dir):
            shutil.rmtree(run_dir / _NAME)

    @property
    def tokenizer_files(self) -> list[Path]:
        """The files of its tokenizer."""
        return _files(self.directory)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that our model has no place for, by their Hugging Face names."""
        path = self.directory / SINGLE_FILE
        return load_file(path) if path.is_file() else {}

    def config(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """The source's config.json, for the exported class and its number of ids.

        The source's own values stand for all other keys, also those that training did not use.

        Args:
            ours: The config.json of the run's model.
        """
        source = read_json(self.directory / _CONFIG)
        kept = {key: ours[key] for key in _SHAPES if key in ours}
        types = {key: "float32" for key in ("dtype", "torch_dtype") if key in source}
        return source | kept | types | {"architectures": ours["architectures"]}


@contextlib.contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """Write a directory anew: there may be one of a start that ended before its first checkpoint."""
    if target.exists():
        shutil.rmtree(target)
    with atomic_directory(target) as draft:
        yield draft


def _files(directory: Path, *, is_extended: bool = False) -> list[Path]:
    """The files of the tokenizer in a Hugging Face directory; the settings alone if it is extended."""
    names = _SETTINGS if is_extended else (*_SETTINGS, *_VOCABULARIES)
    found = (path for name in names for path in directory.glob(name))
    return sorted(path for path in found if path.is_file())
