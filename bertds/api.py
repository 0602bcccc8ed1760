"""What Python programs use: train a case, and take what was trained.

case = Case.read("ds_configs/sample.json")  -->  run_dir = train(case)  -->  model = load_model(run_dir)
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bertds.case.file import Case
from bertds.data.packing import Sequences, pack
from bertds.engine import start, stop_at_exit
from bertds.export import export
from bertds.fill import Guess, fill
from bertds.forward import tensors_on
from bertds.model.mlm import MaskedLanguageModel
from bertds.prepare import prepare
from bertds.run_lock import locked
from bertds.trained import Trained
from bertds.training import StopRequest
from bertds.training import train as train_run
from bertds.world import World


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
        CaseError: The case does not fit the machine, the processes or the data.
        ValueError: A shard set is missing or damaged.
        NumbersError: Losses, gradients or weights are not finite.
        CheckpointError: A checkpoint cannot be read, or the final one not be written.
    """
    world = World.detect()
    run = prepare(case, data, Path(out) / case.name / case.arm, world)
    if run.is_finished():
        run.warn_if_changed()
        return run.run_dir
    with ExitStack() as stack:
        if world.is_main:
            stack.enter_context(locked(run.run_dir))
        device = start(world, case.bertds.run.collective_timeout_s)
        stop = stack.enter_context(StopRequest().listening())
        train_run(run, device, stop)
        stop_at_exit()
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
    trained = Trained.open(Path(run_dir), checkpoint)
    return Model(trained, trained.model())


@dataclass(frozen=True, slots=True)
class Model:
    """A trained encoder with its tokenizer."""

    trained: Trained
    """The run: case, tokenizer, checkpoint."""
    module: MaskedLanguageModel
    """The weights, as a torch module."""

    def fill(self, text: str, top: int = 5) -> list[Guess]:
        """The most likely tokens for each [MASK] of a text.

        Raises:
            CaseError: The text has no [MASK], or is too long for the model.
        """
        return fill(self.trained, self.module, text, top)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The last hidden states of each text, (L, D), one row for each of its tokens.

        Raises:
            CaseError: A text is too long for the model.
        """
        rows = [np.array(self.trained.encode(text), dtype=np.int64) for text in texts]
        lengths = np.array([row.size for row in rows])
        if not lengths.any():
            return [torch.zeros(0, self.module.config.hidden_size) for _ in texts]
        everywhere = np.arange(lengths.sum())
        sequences = Sequences(
            inputs=np.concatenate(rows),
            lengths=lengths,
            masked=everywhere,
            labels=np.zeros_like(everywhere),
        )
        pad_id = self.trained.tokenizer.special_ids["pad"]
        packed = pack(sequences, row_length=int(lengths.max()), pad_id=pad_id)
        hidden = self.module.hidden_states(tensors_on(torch.device("cpu"), packed))
        return list(torch.split(hidden, lengths.tolist()))

    def export(self, out: Path | str) -> None:
        """Write a Hugging Face directory.

        Raises:
            CaseError: No Hugging Face class computes what the model does.
            FileExistsError: There is something at `out` already.
        """
        export(self.trained, Path(out))
