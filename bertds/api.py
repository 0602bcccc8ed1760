"""The Python API: train a case, load the trained model, predict masked tokens, encode, export.

case = Case.read("ds_configs/sample.json")  ->  run_dir = train(case)
                                            ->  model = load_model(run_dir)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bertds.config import case as config
from bertds.distributed.world import World
from bertds.engine.process_group import destroy_process_group_at_exit
from bertds.inference.embed import embed
from bertds.inference.export import export
from bertds.inference.fill_mask import MaskPrediction, fill
from bertds.model.mlm import MaskedLanguageModel
from bertds.runs.case_file import Case
from bertds.runs.trained_run import TrainedRun
from bertds.training.session import open_session
from bertds.training.setup import prepare_run

__all__ = ["Case", "Model", "load_model", "train"]


def train(case: config.Case, data: Path | str = "data", out: Path | str = "runs") -> Path:
    """Train a case, or resume it from its last checkpoint.

    It trains in this process. Under a launcher, every rank must call it. It must run in the main
    thread, because it handles signals: SIGTERM and the first Ctrl-C save a checkpoint before
    training stops, a second Ctrl-C interrupts.

    Args:
        case: The result of `Case.read`.
        data: Directory or URL that the names of shard sets are relative to.
        out: Output directory; the run is written to `<out>/<case>/<arm>/`.

    Returns:
        The run directory. Its `status.json` tells whether training is done or was preempted.

    Raises:
        TypeError: `case` is not a `Case`.
        ConfigError: The case does not fit the machine, the number of ranks or the data.
        ValueError: A shard set is missing or damaged.
        NonFiniteError: Losses, gradients or weights are NaN or infinite.
        CheckpointError: A checkpoint cannot be read, or the final one cannot be written.
    """
    if not isinstance(case, config.Case):
        raise TypeError(f"case is {case!r}, expected the result of Case.read('CASE.json')")
    world = World.detect()
    run = prepare_run(case, data, Path(out) / case.name / case.arm, world)
    if run.is_finished():
        run.warn_if_changed()
        return run.run_dir
    with open_session([run], world) as session:
        session.train(run)
        destroy_process_group_at_exit()
    return run.run_dir


def load_model(
    run_dir: Path | str, checkpoint: str = "latest", average: str = "", *, ema: bool = False
) -> "Model":
    """Load the model of a finished or running experiment, in fp32 on the CPU.

    Args:
        run_dir: A run directory, for example `runs/sample/main`.
        checkpoint: `latest` (the newest complete checkpoint), `best`, or a step.
        average: Use the uniform mean of the weights of several checkpoints: a number of newest ones,
            such as `3`, or steps, such as `1000,1500`.
        ema: Use the moving average of the weights, which training keeps with `run.ema_decay`.

    Raises:
        ValueError: `run_dir` is not a run directory, or another version of bertds wrote it.
        CheckpointError: The checkpoint does not exist or is damaged.
    """
    trained = TrainedRun.open(Path(run_dir), checkpoint, average, ema=ema)
    return Model(trained, trained.model())


@dataclass(frozen=True, slots=True)
class Model:
    """A trained encoder with its tokenizer."""

    trained: TrainedRun
    """The run: case, tokenizer, checkpoint."""
    module: MaskedLanguageModel
    """The weights, as a torch module."""

    def __repr__(self) -> str:
        run, parameters = self.trained, sum(each.numel() for each in self.module.parameters())
        return (
            f"Model({str(run.run_dir)!r}, {run.checkpoint.path.name}, {parameters:,} parameters, "
            f"{run.tokenizer.vocab_size:,} tokens)"
        )

    def fill(self, text: str, top: int = 5) -> list[MaskPrediction]:
        """Predict the `top` most likely tokens for each [MASK] of a text.

        Raises:
            ConfigError: The text has no [MASK], or is too long for the model.
        """
        return fill(self.trained, self.module, text, top)

    def encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Compute the last hidden states of each text: (L, D), one row per token.

        Raises:
            ConfigError: A text is too long for the model.
        """
        return embed(self.trained, self.module, texts)

    def export(self, out: Path | str) -> None:
        """Write the model as a Hugging Face directory.

        Raises:
            ConfigError: No Hugging Face class computes the same function as the model.
            FileExistsError: `out` exists and is not empty.
        """
        export(self.trained, Path(out))
