"""What Python programs use: train a case, and take what was trained.

case = Case.read("ds_configs/sample.json")  -->  run_dir = train(case)  -->  model = load_model(run_dir)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bertds.config.case import Case
from bertds.distributed.world import World
from bertds.engine.process_group import destroy_process_group_at_exit
from bertds.inference.embed import embed
from bertds.inference.export import export
from bertds.inference.fill_mask import MaskPrediction, fill
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.trained_run import TrainedRun
from bertds.training.session import open_session
from bertds.training.setup import prepare_run

__all__ = ["Case", "Model", "load_model", "train"]


def train(case: Case, data: Path | str = "data", out: Path | str = "runs") -> Path:
    """Train a case, or go on with it where an earlier call or `launch/train.py` stopped.

    In one process; under a launcher, all processes call it. SIGTERM and Ctrl-C save first, and a
    second Ctrl-C interrupts, so it must be called in the main thread.

    Args:
        case: From `Case.read`.
        data: Directory or URL that the names of shard sets are relative to.
        out: Directory for `<case>/<arm>/`.

    Returns:
        The run's directory; its `status.json` says whether it is done or was stopped before.

    Raises:
        ConfigError: The case does not fit the machine, the processes or the data.
        ValueError: A shard set is missing or damaged.
        NonFiniteError: Losses, gradients or weights are not finite.
        CheckpointError: A checkpoint cannot be read, or the final one not be written.
    """
    world = World.detect()
    run = prepare_run(case, data, Path(out) / case.name / case.arm, world)
    if run.is_finished():
        run.warn_if_changed()
        return run.run_dir
    with open_session([run], world) as session:
        session.train(run)
        destroy_process_group_at_exit()
    return run.run_dir


def load_model(run_dir: Path | str, checkpoint: str = "latest") -> "Model":
    """The model of a run, finished or still going on, in fp32 on the CPU.

    Args:
        run_dir: Such as `runs/sample/main`.
        checkpoint: `latest` (the newest that is whole), `best`, or a step.

    Raises:
        ValueError: It is no run's directory, or of another version of the program.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    trained = TrainedRun.open(Path(run_dir), checkpoint)
    return Model(trained, trained.model())


@dataclass(frozen=True, slots=True)
class Model:
    """A trained encoder with its tokenizer."""

    trained: TrainedRun
    """The run: case, tokenizer, checkpoint."""
    module: MaskedLanguageModel
    """The weights, as a torch module."""

    def fill(self, text: str, top: int = 5) -> list[MaskPrediction]:
        """The most likely tokens for each [MASK] of a text.

        Raises:
            ConfigError: The text has no [MASK], or is too long for the model.
        """
        return fill(self.trained, self.module, text, top)

    def encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The last hidden states of each text, (L, D), one row for each of its tokens.

        Raises:
            ConfigError: A text is too long for the model.
        """
        return embed(self.trained, self.module, texts)

    def export(self, out: Path | str) -> None:
        """Write a Hugging Face directory.

        Raises:
            ConfigError: No Hugging Face class computes what the model does.
            FileExistsError: There is something at `out` already.
        """
        export(self.trained, Path(out))
