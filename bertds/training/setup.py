"""Everything about a run that files alone can tell, checked before anything starts.

Nothing is written, and no process group exists yet.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bertds.checkpoint.directory import list_checkpoints, step_of
from bertds.config.batch import BatchSplit, split_batch, valid_micro_batch_size
from bertds.config.case import Case
from bertds.config.consistency import check_consistency
from bertds.config.messages import Problem, problems_error
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import interval_steps, num_steps
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
from bertds.engine.deepspeed_config import (
    check_device,
    custom_lr_lambda,
    deepspeed_config,
    warn_of_one_host,
    warn_of_stage_0,
)
from bertds.engine.deepspeed_keys import check_deepspeed_keys
from bertds.errors import ConfigError
from bertds.huggingface.pretrained import Pretrained, open_pretrained
from bertds.io.json_files import read_json
from bertds.model.attention import uses_varlen_attention
from bertds.model.flash_attention import check_flash_attention
from bertds.runs.config_drift import check_unchanged
from bertds.tracking.packages import check_packages
from bertds.training.branch import Branch, Trunk, open_branch, row_length_of

logger = logging.getLogger("bertds")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetup:
    """A run that is ready to start, or is finished."""

    case: Case
    run_dir: Path
    world: World
    split: BatchSplit
    loader: TrainLoader
    train: list[DatasetSubset]
    valid: dict[str, MaskedDataset]
    vocabulary: Vocabulary
    train_row_length: int
    """Tokens of the longest row of a training batch; 0 for the varlen layout."""
    valid_spec: RankBatchSpec
    """This rank's part of a validation set, and its layout."""
    lengths: ScheduleLengths
    pretrained: Pretrained | None
    """The weights to start from, if not random ones; None also for a run that resumes."""
    branch: Branch | None
    """The checkpoint of another run to start from; None also for a run that resumes."""
    changes: list[str]
    """Settings that differ from those the run started with."""

    @property
    def first_step(self) -> int:
        """The step that the run begins at, without a checkpoint of its own."""
        return self.branch.step if self.branch is not None else 0

    @property
    def keep_every(self) -> int | None:
        """Interval in steps between two checkpoints that are never removed."""
        interval = self.case.bertds.run.keep_every
        return None if interval is None else interval_steps(interval, self.lengths.steps_per_epoch)

    def is_finished(self) -> bool:
        """Whether the run is done, up to the number of steps that the case has now."""
        status = read_json(self.run_dir / "status.json")
        return status.get("state") == "done" and status["step"] >= self.lengths.num_steps

    def as_trunk(self) -> Trunk:
        """The run as another one sees that branches from it, and is trained after it."""
        return Trunk(
            run_dir=self.run_dir,
            config=self.case.resolved,
            train_row_length=self.train_row_length,
            num_steps=0 if self.is_finished() else self.lengths.num_steps,
            keep_every=self.keep_every,
        )

    def warn_if_changed(self) -> None:
        """Warn that changed settings have no effect on a finished run."""
        if self.changes:
            logger.warning(
                "%s is finished and not trained again, so these changes have no effect: %s; use "
                "another --out to train with them",
                *(self.run_dir, ", ".join(self.changes)),
            )

    def subsets(self) -> dict[str, list[DatasetSubset]]:
        """The datasets by use, under the keys of a checkpoint."""
        return {"data": self.train, "valid": [dataset.subset for dataset in self.valid.values()]}

    def data_identity(self) -> dict[str, list[list[str | int]]]:
        """Key, length and weight of each dataset: a resumed run must find them unchanged."""
        return {
            use: [[subset.set_key, subset.num_sequences, subset.weight] for subset in subsets]
            for use, subsets in self.subsets().items()
        }


def prepare_runs(
    cases: Sequence[Case], data_root: str | Path, out: Path, world: World
) -> list[RunSetup]:
    """Prepare the runs that a command trains in this order; one may branch from an earlier one.

    Args:
        cases: What to run.
        data_root: As for `prepare_run`.
        out: Directory of the run directories, `<case>/<arm>`.
        world: The processes.

    Raises:
        ConfigError, ValueError, RemoteError: As `prepare_run`.
    """
    runs: list[RunSetup] = []
    for case in cases:
        run_dir = out / case.name / case.arm
        runs.append(prepare_run(case, data_root, run_dir, world, [run.as_trunk() for run in runs]))
    return runs


def prepare_run(
    case: Case,
    data_root: str | Path,
    run_dir: Path,
    world: World,
    planned: Sequence[Trunk] = (),
) -> RunSetup:
    """Open the data of a run and compute its number of steps.

    Args:
        case: What to run.
        data_root: Directory or URL that the names of shard sets are relative to.
        run_dir: The run's directory.
        world: The processes.
        planned: The runs that are trained before it, from which it may branch.

    Raises:
        ConfigError: The case does not fit the machine, the processes or the data.
        ValueError: A shard set is missing or damaged.
        RemoteError: A shard set behind a URL cannot be read.
    """
    check_deepspeed_keys(case)
    check_device(case, world)
    warn_of_one_host(case, world)
    warn_of_stage_0(case)
    check_flash_attention(case)
    _warn_of_compiled_rows(case)
    check_packages(case)
    _check_resume(case, run_dir)
    split = split_batch(case, world.world_size)
    train, valid, vocabulary = _open_data(case, data_root)
    valid_spec = _batch_spec(case, split, world, [*train, *valid.values()], vocabulary)
    branch = None if list_checkpoints(run_dir) else open_branch(case, planned)
    longest = valid_spec.row_length
    spec = replace(valid_spec, row_length=_train_row_length(run_dir, branch, longest))
    masker = vocabulary.masker(case.bertds.masking)
    loader = TrainLoader(
        [MaskedDataset(subset, masker, case.bertds.masking) for subset in train],
        case.bertds.data,
        spec,
        batch_size=case.train_batch_size,
        seed=case.bertds.run.seed,
    )
    steps_per_epoch = loader.sampler.steps_per_epoch
    lengths = ScheduleLengths(steps_per_epoch, num_steps(case.bertds.run, steps_per_epoch))
    _check_not_beyond(run_dir, branch, lengths)
    _check_consistency(case, run_dir, lengths)
    # Computed for their errors, which must come before a process group exists.
    deepspeed_config(case, split, lengths, on_gpu=torch.cuda.is_available())
    custom_lr_lambda(case, lengths)
    return RunSetup(
        case=case,
        run_dir=run_dir,
        world=world,
        split=split,
        loader=loader,
        train=train,
        valid={
            name: masked_valid(case.bertds.masking, subset, vocabulary)
            for name, subset in valid.items()
        },
        vocabulary=vocabulary,
        train_row_length=spec.row_length,
        valid_spec=replace(
            valid_spec, micro_batch_size=valid_micro_batch_size(case, world.world_size)
        ),
        lengths=lengths,
        pretrained=_open_pretrained(case, run_dir, vocabulary),
        branch=branch,
        changes=check_unchanged(run_dir, case.resolved),
    )


def _warn_of_compiled_rows(case: Case) -> None:
    """Without the varlen kernel, a graph holds for one combination of row lengths."""
    has_rows = not uses_varlen_attention(case.bertds.model, case.precision)
    if case.bertds.run.compile and has_rows:
        logger.warning(
            "run.compile is true, but attention is computed in rows here: each combination of row "
            "lengths is compiled anew during a step; use bf16 or fp16 on a GPU, or set it to false"
        )


def _open_data(
    case: Case, data_root: str | Path
) -> tuple[list[DatasetSubset], dict[str, DatasetSubset], Vocabulary]:
    """The training sets, the validation sets by name, and the vocabulary that all share."""
    root = DataRoot.of(data_root, case.bertds.data)
    train = open_train(case, root)
    valid = open_valid(case, root)
    subsets = [*train, *valid.values()]
    warn_of_small_cache(subset.shards for subset in subsets)
    vocabulary = Vocabulary.of(subsets)
    _check_data(case, subsets, vocabulary)
    return train, valid, vocabulary


def _batch_spec(
    case: Case,
    split: BatchSplit,
    world: World,
    subsets: list[DatasetSubset],
    vocabulary: Vocabulary,
) -> RankBatchSpec:
    """This rank's part of a training batch, and its layout."""
    longest = max(subset.shards.index.max_length for subset in subsets)
    varlen = uses_varlen_attention(case.bertds.model, case.precision)
    return RankBatchSpec(
        rank=world.rank,
        world_size=world.world_size,
        micro_batch_size=split.micro_batch_size,
        # No longer than the longest sequence: attention costs less in shorter rows.
        row_length=0 if varlen else longest,
        pad_id=vocabulary.pad_id,
        unmaskable_ids=vocabulary.unmaskable_ids,
    )


def _train_row_length(run_dir: Path, branch: Branch | None, longest: int) -> int:
    """The longest row of a training batch: a validation set that is added later does not change it.

    Without a checkpoint the run starts anew, perhaps on other shards with longer sequences.
    """
    if branch is not None:
        return min(branch.train_row_length, longest) or longest
    if not list_checkpoints(run_dir):
        return longest
    saved = row_length_of(read_json(run_dir / "case.json").get("resolved", {}))
    return min(saved, longest) or longest


def _open_pretrained(case: Case, run_dir: Path, vocabulary: Vocabulary) -> Pretrained | None:
    """The weights of `run.init_from`, for a run without a checkpoint."""
    path = case.bertds.run.init_from
    if path is None or list_checkpoints(run_dir):
        return None
    tokenizer = Tokenizer.load(vocabulary.directory / TOKENIZER_NAME)
    return open_pretrained(Path(path).expanduser(), case.bertds.model, tokenizer)


def _check_resume(case: Case, run_dir: Path) -> None:
    """A run never starts from step 0 without a word where its case asks to resume."""
    resume, checkpoints = case.bertds.run.resume, list_checkpoints(run_dir)
    if resume == "required" and not checkpoints:
        raise ConfigError(
            f'run.resume is "required", but {run_dir} holds no checkpoint: check --out, or set it '
            'to "auto"'
        )
    if resume == "never" and checkpoints:
        raise ConfigError(
            f'run.resume is "never", but {run_dir} holds the checkpoint {checkpoints[0].name}: '
            'train into another --out, or set it to "auto"'
        )


def _check_consistency(case: Case, run_dir: Path, lengths: ScheduleLengths) -> None:
    """No setting contradicts another one, or the length of the run; a run that exists goes on."""
    findings = check_consistency(case.resolved, lengths)
    where = f"{case.name}.json (arm {case.arm})"
    has_started = bool(list_checkpoints(run_dir))
    if findings.errors and not has_started:
        raise problems_error(where, [Problem("", text) for text in findings.errors])
    for text in [*findings.errors, *findings.warnings]:
        logger.warning("%s: %s", where, text)


def _check_not_beyond(run_dir: Path, branch: Branch | None, lengths: ScheduleLengths) -> None:
    """An unfinished run has not made more steps than the case has now; a branch has some to make."""
    if branch is not None and branch.step >= lengths.num_steps:
        raise ConfigError(
            f"run.branch_from begins at step {branch.step}, but run.max_steps or run.num_epochs gives "
            f"{lengths.num_steps} steps, which include those of {branch.run_dir}: raise it"
        )
    checkpoints = list_checkpoints(run_dir)
    if not checkpoints or read_json(run_dir / "status.json").get("state") == "done":
        return
    step = step_of(checkpoints[0])
    if step > lengths.num_steps:
        raise ConfigError(
            f"{run_dir} has a checkpoint of step {step}, but run.max_steps or run.num_epochs gives "
            f"{lengths.num_steps} steps: raise it, or train into another --out"
        )


def _check_data(case: Case, subsets: list[DatasetSubset], vocabulary: Vocabulary) -> None:
    """The vocabulary and the sequence lengths are those that the case expects."""
    vocab_size, seq_len = case.bertds.model.vocab_size, case.bertds.data.seq_len
    padded = case.bertds.model.padded_vocab_size(vocabulary.size)
    if vocab_size not in (None, vocabulary.size, padded):
        raise ConfigError(
            f"model.vocab_size is {vocab_size}, but the shards in {vocabulary.source} were made "
            f"with {vocabulary.size} ids: leave the key out, or point at other shards"
        )
    for subset in subsets:
        longest, cut_at = subset.shards.index.max_length, subset.shards.index.seq_len
        if longest == cut_at < seq_len:
            logger.warning(
                "data.seq_len is %d, but the lines in %s were cut into pieces of %d tokens: for "
                "longer sequences make shards with --seq_len %d",
                *(seq_len, subset.shards.files, cut_at, seq_len),
            )
        if longest > seq_len:
            raise ConfigError(
                f"data.seq_len is {seq_len}, but {subset.shards.files} holds a sequence of "
                f"{longest} tokens: raise it, or make shards with --seq_len {seq_len}"
            )
