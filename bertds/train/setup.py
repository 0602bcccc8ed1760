"""A run on paper: everything that files alone can tell of it, checked before anything starts."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bertds.checkpoint.directory import list_checkpoints
from bertds.config.batch import BatchSplit, split_batch, valid_micro_batch_size
from bertds.config.case import Case
from bertds.config.schema import num_steps
from bertds.data.data_root import DataRoot, warn_of_small_cache
from bertds.data.dataset import DatasetSubset, open_train
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import RankBatchSpec
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.tokenizer import Tokenizer
from bertds.data.validation import masked_valid, open_valid
from bertds.data.vocabulary import Vocabulary
from bertds.distributed.world import World
from bertds.engine.deepspeed_config import check_device, custom_lr_lambda, deepspeed_config
from bertds.errors import ConfigError
from bertds.huggingface.pretrained import Pretrained, open_pretrained
from bertds.io.json_files import read_json
from bertds.model.attention import uses_varlen_attention
from bertds.optim.lr_schedules import ScheduleLengths
from bertds.runs.config_drift import check_unchanged
from bertds.tracking.mlflow import check_mlflow

logger = logging.getLogger("bertds")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetup:
    """What `prepare` found."""

    case: Case
    run_dir: Path
    world: World
    split: BatchSplit
    loader: TrainLoader
    train: list[DatasetSubset]
    valid: dict[str, MaskedDataset]
    vocabulary: Vocabulary
    valid_share: RankBatchSpec
    """How a validation set is divided."""
    lengths: ScheduleLengths
    pretrained: Pretrained | None
    """What the weights begin with, instead of the seed's; None as well where a run goes on."""
    changes: list[str]
    """Settings that differ from those the run began with."""

    def is_finished(self) -> bool:
        """Done, to the length that is asked for now."""
        status = read_json(self.run_dir / "status.json")
        return status.get("state") == "done" and status["step"] >= self.lengths.num_steps

    def warn_if_changed(self) -> None:
        """Of a finished run: say that it is asked for with other settings in vain."""
        if self.changes:
            logger.warning(
                "%s is done and not trained again, so these changes have no effect: %s; train them "
                "into another --out",
                *(self.run_dir, ", ".join(self.changes)),
            )

    def parts(self) -> dict[str, list[DatasetSubset]]:
        """The sets by their use, as a checkpoint names it."""
        return {"data": self.train, "valid": [one.part for one in self.valid.values()]}

    def data_identity(self) -> dict[str, list[list[str | int]]]:
        """What a resumed run must find as it was: key, length and weight of each of its sets."""
        return {
            use: [[part.shards.index.set_key, part.num_sequences, part.weight] for part in parts]
            for use, parts in self.parts().items()
        }


def prepare_run(case: Case, data_root: str | Path, run_dir: Path, world: World) -> RunSetup:
    """Open the data of a run and lay out its steps; nothing is written.

    Args:
        case: What to run.
        data_root: Directory or URL that the names of shard sets are relative to.
        run_dir: The run's directory.
        world: The processes.

    Raises:
        ConfigError: The case does not fit the machine, the processes or the data.
        ValueError: A shard set is missing or damaged.
        RemoteError: One is behind a URL and cannot be reached.
    """
    check_device(case, world)
    if case.bertds.run.mlflow is not None:
        check_mlflow()
    _check_resume(case, run_dir)
    split = split_batch(case, world.world_size)
    data, masking = case.bertds.data, case.bertds.masking
    root = DataRoot.of(data_root, data)
    train = open_train(case, root)
    valid = open_valid(case, root)
    parts = [*train, *valid.values()]
    warn_of_small_cache(part.shards for part in parts)
    vocabulary = Vocabulary.of(parts)
    _check_fits(case, parts, vocabulary)
    share = _share(case, split, world, parts, vocabulary)
    masker = vocabulary.masker(masking)
    loader = TrainLoader(
        [MaskedDataset(part, masker, masking) for part in train],
        data,
        share,
        batch_size=case.train_batch_size,
        seed=case.bertds.run.seed,
    )
    per_epoch = loader.order.steps_per_epoch
    lengths = ScheduleLengths(per_epoch, num_steps(case.bertds.run, per_epoch))
    _check_not_beyond(run_dir, lengths)
    # What DeepSpeed will be told, for its errors: they belong before a process group exists.
    deepspeed_config(case, split, lengths, on_gpu=torch.cuda.is_available())
    custom_lr_lambda(case, lengths)
    return RunSetup(
        case=case,
        run_dir=run_dir,
        world=world,
        split=split,
        loader=loader,
        train=train,
        valid={name: masked_valid(case, part, vocabulary) for name, part in valid.items()},
        vocabulary=vocabulary,
        valid_share=replace(share, micro_batch_size=valid_micro_batch_size(case, world.world_size)),
        lengths=lengths,
        pretrained=_pretrained(case, run_dir, vocabulary),
        changes=check_unchanged(run_dir, case.resolved),
    )


def _pretrained(case: Case, run_dir: Path, vocabulary: Vocabulary) -> Pretrained | None:
    """The weights of `run.init_from` for a run that has no checkpoint yet."""
    path = case.bertds.run.init_from
    if path is None or list_checkpoints(run_dir):
        return None
    tokenizer = Tokenizer.load(vocabulary.directory / TOKENIZER_NAME)
    return open_pretrained(Path(path).expanduser(), case.bertds.model, tokenizer)


def _share(
    case: Case, split: BatchSplit, world: World, parts: list[DatasetSubset], vocabulary: Vocabulary
) -> RankBatchSpec:
    """What this process computes of a batch, and in which layout."""
    # Rows only as long as the longest sequence there is: shorter ones cost less attention.
    longest = max(part.shards.index.max_length for part in parts)
    return RankBatchSpec(
        rank=world.rank,
        world_size=world.world_size,
        micro_batch_size=split.micro_batch_size,
        row_length=0 if uses_varlen_attention(case.bertds.model, case.precision) else longest,
        pad_id=vocabulary.pad_id,
    )


def _check_resume(case: Case, run_dir: Path) -> None:
    """A run never starts from step 0 in silence where its case says otherwise."""
    resume, found = case.bertds.run.resume, list_checkpoints(run_dir)
    if resume == "required" and not found:
        raise ConfigError(
            f'run.resume is "required", but {run_dir} holds no checkpoint: check --out, or set it '
            'to "auto"'
        )
    if resume == "never" and found:
        raise ConfigError(
            f'run.resume is "never", but {run_dir} holds the checkpoint {found[0].name}: train '
            'into another --out, or set it to "auto"'
        )


def _check_not_beyond(run_dir: Path, lengths: ScheduleLengths) -> None:
    """A run that is not done has not made more steps than are asked for."""
    found = list_checkpoints(run_dir)
    if not found or read_json(run_dir / "status.json").get("state") == "done":
        return
    step = int(found[0].name.removeprefix("step_"))
    if step > lengths.num_steps:
        raise ConfigError(
            f"{run_dir} has a checkpoint of step {step}, and run.max_steps or run.num_epochs asks for "
            f"{lengths.num_steps} steps: raise it, or train into another --out"
        )


def _check_fits(case: Case, parts: list[DatasetSubset], vocabulary: Vocabulary) -> None:
    wanted, seq_len = case.bertds.model.vocab_size, case.bertds.data.seq_len
    if wanted is not None and wanted != vocabulary.size:
        raise ConfigError(
            f"model.vocab_size is {wanted}, but the shards in {vocabulary.place} were made "
            f"with {vocabulary.size} ids: leave the key out, or point at other shards"
        )
    for part in parts:
        longest, cut_at = part.shards.index.max_length, part.shards.index.seq_len
        if longest == cut_at < seq_len:
            logger.warning(
                "data.seq_len is %d, but the lines in %s were cut into pieces of %d tokens: for "
                "longer ones make shards with --seq_len %d",
                *(seq_len, part.shards.files, cut_at, seq_len),
            )
        if longest > seq_len:
            raise ConfigError(
                f"data.seq_len is {seq_len}, but {part.shards.files} holds a sequence of "
                f"{longest} tokens: raise it, or make shards with --seq_len {seq_len}"
            )
