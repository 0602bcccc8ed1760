"""A run that was trained, or still is, opened for use: case, checkpoint, tokenizer, model.

Whatever number of processes, ZeRO stage and precision wrote it, the fp32 weights are read straight
into a model on the CPU, one parameter at a time: memory is that of the model, without its moments.
Neither DeepSpeed nor the shards are needed.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertds.checkpoint.directory import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    open_checkpoint,
    resolve_pointer,
)
from bertds.checkpoint.tensor_files import read_weights
from bertds.config.case import Case, resolved_case
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.tokenizer import Tokenizer
from bertds.errors import CheckpointError, ConfigError
from bertds.huggingface.tokenizer import whole_tokenizer
from bertds.io.json_files import read_json
from bertds.model.mlm import MaskedLanguageModel

logger = logging.getLogger("bertds")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run and one of its checkpoints."""

    run_dir: Path
    case: Case
    metadata: dict[str, Any]
    """What followed from the case, the data and the machine: `resolved` in `case.json`."""
    versions: dict[str, str]
    """Of the programs that trained it."""
    tokenizer: Tokenizer
    checkpoint: Checkpoint

    @classmethod
    def open(cls, run_dir: Path, checkpoint: str) -> "TrainedRun":
        """Read a run's directory; nothing in it is changed.

        Args:
            run_dir: Such as `runs/case11/batch64_cosine`; an arm that is another case's run is
                followed there.
            checkpoint: `latest` (the newest that is whole), `best`, or a step: `1000` or
                `step_0000001000`.

        Raises:
            ValueError: It is no run's directory, or of another version of the program.
            CheckpointError: There is no such checkpoint, or it is damaged.
        """
        run_dir = run_dir.absolute()
        content = read_json(run_dir / "case.json")
        if "same_as" in content:
            run_dir = run_dir.parent.parent / content["same_as"]
            content = read_json(run_dir / "case.json")
        if "config" not in content:
            raise ConfigError(
                f"{run_dir} is no run: case.json with a config is wanted there, as training "
                "writes it into <out>/<case>/<arm>"
            )
        name, arm = content["case"], content["arm"]
        return cls(
            run_dir=run_dir,
            case=resolved_case(run_dir / "case.json", name, arm, content["config"]),
            metadata=content["resolved"],
            versions=content["versions"],
            tokenizer=Tokenizer.load(run_dir / TOKENIZER_NAME),
            checkpoint=_choose(run_dir, checkpoint),
        )

    @property
    def precision(self) -> str:
        """That the checkpoint was trained in; the run may have gone on in another."""
        precision: str = self.checkpoint.manifest["precision"]
        return precision

    @property
    def world_size(self) -> int:
        """Processes that wrote the checkpoint; the run may have gone on with others."""
        world_size: int = self.checkpoint.manifest["world_size"]
        return world_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text, read as in training; marks such as [MASK] are taken as such.

        Raises:
            ConfigError: The text is too long for the model.
        """
        longest = self.case.bertds.model.max_position_embeddings
        whole = whole_tokenizer(self.tokenizer, framed=self.metadata["special_tokens"])
        ids = whole.encode_marked(text)
        if len(ids) > longest:
            raise ConfigError(
                f"the text has {len(ids)} tokens, the model takes {longest} "
                "(model.max_position_embeddings): shorten it"
            )
        return ids

    def model(self) -> MaskedLanguageModel:
        """The model with the checkpoint's fp32 weights, on the CPU, without dropout.

        Raises:
            CheckpointError: It holds the weights of another model.
        """
        pad_id = self.tokenizer.special_ids["pad"]
        model = MaskedLanguageModel(self.case.bertds.model, self.tokenizer.vocab_size, pad_id)
        read_weights(self.checkpoint, model)
        return model.eval()


def _choose(run_dir: Path, name: str) -> Checkpoint:
    """The checkpoint of a name, every file verified."""
    if name == "latest":
        return _newest(run_dir)
    digits = name.removeprefix("step_")
    if name != "best" and not digits.isdecimal():
        raise CheckpointError(f"--checkpoint is {name!r}, wanted is latest, best or a step")
    found = (
        resolve_pointer(run_dir, "best")
        if name == "best"
        else checkpoint_path(run_dir, int(digits))
    )
    if found is None or not found.is_dir():
        held = ", ".join(path.name for path in list_checkpoints(run_dir)) or "none"
        raise CheckpointError(f"{run_dir} has no checkpoint {name}: there are {held}")
    return open_checkpoint(found)


def _newest(run_dir: Path) -> Checkpoint:
    for path in _complete(run_dir):
        try:
            return open_checkpoint(path)
        except CheckpointError as error:
            logger.warning("checkpoint %s is skipped: %s", path.name, error)
    raise CheckpointError(f"{run_dir} holds no checkpoint that is whole: train it first")


def _complete(run_dir: Path) -> Iterator[Path]:
    """The folders, newest first; listed anew after each, for training goes on and prunes."""
    seen: set[Path] = set()
    while left := [path for path in list_checkpoints(run_dir) if path not in seen]:
        seen.add(left[0])
        yield left[0]
