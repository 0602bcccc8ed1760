"""Opens a finished or running experiment for use: case, checkpoint, tokenizer, model.

A checkpoint of any world size, ZeRO stage and precision is read directly into an fp32 model on the
CPU, part by part. So peak memory is the size of the model, without optimizer moments, also if several
checkpoints are averaged. Neither DeepSpeed nor the shards are needed.
"""

import logging
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
from bertds.checkpoint.tensor_files import has_ema, read_weights
from bertds.config.case import Case, resolved_case
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.text import clean_text
from bertds.data.tokenizer import Tokenizer
from bertds.engine.optimizer_state import EMA, WEIGHT
from bertds.errors import CheckpointError, ConfigError
from bertds.huggingface.tokenizer import standalone_tokenizer
from bertds.io.json_files import read_json
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.averaging import open_averaged

logger = logging.getLogger("bertds")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run and one of its checkpoints."""

    run_dir: Path
    case: Case
    metadata: dict[str, Any]
    """`resolved` in `case.json`: what follows from the case, the data and the machine."""
    versions: dict[str, str]
    """Versions of the packages that trained it."""
    tokenizer: Tokenizer
    checkpoint: Checkpoint
    """The one whose weights are used; the newest, if several are averaged."""
    averaged: tuple[Checkpoint, ...] = ()
    """The checkpoints whose weights are averaged, oldest first; empty if none are."""
    ema: bool = False
    """Whether the moving average of the weights is used instead of the weights."""

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.run_dir)!r}, {self.checkpoint.path.name})"

    @classmethod
    def open(
        cls, run_dir: Path, checkpoint: str = "latest", average: str = "", *, ema: bool = False
    ) -> "TrainedRun":
        """Read a run directory; nothing in it is changed.

        Args:
            run_dir: A run directory, for example `runs/case11/batch64_cosine`. If the arm is the
                same run as an arm of another case, that run is opened.
            checkpoint: `latest` (the newest complete checkpoint), `best`, or a step: `1000` or
                `step_0000001000`.
            average: Use the uniform mean of the weights of several checkpoints: a number of newest
                ones, such as `3`, or steps, such as `1000,1500`.
            ema: Use the moving average of the weights, which training keeps with `run.ema_decay`.

        Raises:
            ValueError: `run_dir` is not a run directory, or another version of bertds wrote it.
            CheckpointError: The checkpoint does not exist or is damaged.
        """
        run_dir = run_dir.absolute()
        content = read_json(run_dir / "case.json")
        if "same_as" in content:
            run_dir = run_dir.parent.parent / content["same_as"]
            content = read_json(run_dir / "case.json")
        if "config" not in content:
            raise ConfigError(
                f"{run_dir} is not a run directory: expected a case.json with a config, which "
                "training writes into <out>/<case>/<arm>"
            )
        name, arm = content["case"], content["arm"]
        if average and ema:
            raise ConfigError(f"--average is {average} and --ema is set: leave one of them out")
        averaged = open_averaged(run_dir, average, checkpoint) if average else ()
        opened = averaged[-1] if averaged else _find_checkpoint(run_dir, checkpoint)
        if ema and not has_ema(opened):
            raise CheckpointError(
                f"{opened.path} holds no moving average of the weights: train with run.ema_decay, or "
                "leave --ema out"
            )
        case = resolved_case(run_dir / "case.json", name, arm, content["config"])
        return cls(
            run_dir=run_dir,
            case=_stage_of(case, content["resolved"].get("stages", []), opened.step),
            metadata=content["resolved"],
            versions=content["versions"],
            tokenizer=Tokenizer.load(run_dir / TOKENIZER_NAME),
            checkpoint=opened,
            averaged=averaged,
            ema=ema,
        )

    @property
    def weights_note(self) -> str:
        """Which weights are used, if not simply those of the checkpoint; empty otherwise."""
        if self.ema:
            return f"moving average of the weights up to step {self.checkpoint.step}"
        if not self.averaged:
            return ""
        return f"mean of steps {', '.join(str(each.step) for each in self.averaged)}"

    def facts(self) -> dict[str, object]:
        """The step, and which of its weights are used, for output."""
        note = {"weights": self.weights_note} if self.weights_note else {}
        return {"step": self.checkpoint.step, **note}

    @property
    def init_from(self) -> str:
        """The Hugging Face directory that it began with, or its trunk; empty for random weights."""
        return initial_model({"config": self.case.resolved, "resolved": self.metadata})

    @property
    def precision(self) -> str:
        """Precision that the checkpoint was trained in; the run may have resumed in another."""
        precision: str = self.checkpoint.manifest["precision"]
        return precision

    @property
    def world_size(self) -> int:
        """Number of ranks that wrote the checkpoint; the run may have resumed with another."""
        world_size: int = self.checkpoint.manifest["world_size"]
        return world_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text, cleaned and tokenized as in training; [MASK] is the mask token.

        Raises:
            ConfigError: The text is too long for the model.
        """
        max_length = self.case.bertds.model.max_position_embeddings
        tokenizer = standalone_tokenizer(
            self.tokenizer, add_special_tokens=self.metadata["special_tokens"]
        )
        clean = clean_text(text, keep_white_space=tokenizer.keeps_white_space)
        ids = tokenizer.encode_marked(clean)
        if len(ids) > max_length:
            raise ConfigError(
                f"the text has {len(ids)} tokens, the model takes {max_length} "
                "(model.max_position_embeddings): shorten it"
            )
        return ids

    def model(self) -> MaskedLanguageModel:
        """The model with the fp32 weights of the checkpoints, on the CPU, in evaluation mode.

        Raises:
            CheckpointError: The checkpoint holds the weights of another model.
        """
        pad_id = self.tokenizer.special_ids["pad"]
        model = MaskedLanguageModel(self.case.bertds.model, self.tokenizer.vocab_size, pad_id)
        kind = EMA if self.ema else WEIGHT
        read_weights(self.averaged or (self.checkpoint,), model, kind)
        return model.eval()


def initial_model(content: dict[str, Any]) -> str:
    """The `run.init_from` in a run's `case.json`, or that of the run that it branches from."""
    own = content.get("config", {}).get("bertds", {}).get("run", {}).get("init_from")
    branch = content.get("resolved", {}).get("branch") or {}
    return str(own or branch.get("init_from") or "")


def _stage_of(case: Case, spans: list[dict[str, Any]], step: int) -> Case:
    """The case of the stage that trained a checkpoint; the case itself without stages."""
    ends = (span["last_step"] for span in spans)
    return next((stage for stage, end in zip(case.stages, ends, strict=False) if step <= end), case)


def _find_checkpoint(run_dir: Path, name: str) -> Checkpoint:
    """Open a checkpoint by name, and verify all of its files."""
    if name == "latest":
        return _newest_checkpoint(run_dir)
    digits = name.removeprefix("step_")
    if name == "best":
        path = resolve_pointer(run_dir, "best")
    elif digits.isdecimal():
        path = checkpoint_path(run_dir, int(digits))
    else:
        raise CheckpointError(f"--checkpoint is {name!r}, expected latest, best or a step")
    if path is None or not path.is_dir():
        available = ", ".join(path.name for path in list_checkpoints(run_dir)) or "none"
        raise CheckpointError(f"{run_dir} has no checkpoint {name}; available: {available}")
    return open_checkpoint(path)


def _newest_checkpoint(run_dir: Path) -> Checkpoint:
    """Open the newest undamaged checkpoint; each failure is logged as a warning."""
    tried: set[Path] = set()
    # Listed again after each failure, because a running experiment deletes old checkpoints.
    while paths := [path for path in list_checkpoints(run_dir) if path not in tried]:
        tried.add(paths[0])
        try:
            return open_checkpoint(paths[0])
        except CheckpointError as error:
            logger.warning("checkpoint %s is skipped: %s", paths[0].name, error)
    raise CheckpointError(f"{run_dir} has no complete checkpoint: train it first")
