"""Everything about a run that files alone can tell, checked before anything starts.

Nothing is written, and no process group exists yet.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bertds.checkpoint.directory import list_checkpoints, step_of
from bertds.config.batch import (
    split_batch,
    valid_micro_batch_size,
)
from bertds.config.batch_plan import warmup_levels
from bertds.config.case import Case
from bertds.config.consistency import check_consistency
from bertds.config.messages import Problem, problems_error
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.stages import with_length
from bertds.data.dataset import DatasetSubset, mean_length_of
from bertds.data.loader import TrainLoader
from bertds.data.masked_dataset import MaskedDataset
from bertds.data.packing import RankBatchSpec
from bertds.data.shards.format import TOKENIZER_NAME
from bertds.data.tokenizer import Tokenizer
from bertds.data.validation import masked_valid
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
from bertds.training.branch import Branch, Trunk, open_branch
from bertds.training.open_data import batch_spec, open_data, train_row_length
from bertds.training.run_setup import RunSetup
from bertds.training.stages import (
    StageSpan,
    check_tokenizers,
    epoch_after,
    lanes_of_stages,
    with_schedules,
)

logger = logging.getLogger("bertds")


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

    Returns:
        The setup of the run, or of its first stage.

    Raises:
        ConfigError: The case does not fit the machine, the processes or the data.
        ValueError: A shard set is missing or damaged.
        RemoteError: A shard set behind a URL cannot be read.
    """
    _check_resume(case, run_dir)
    stages: list[RunSetup] = []
    for stage in case.stages or (case,):
        try:
            stages.append(_prepare_stage(stage, case, data_root, run_dir, world, stages, planned))
        except ConfigError as error:
            if not stage.stage:
                raise
            raise ConfigError(f"stage {stage.stage}: {error}") from error
    check_tokenizers(stages)
    stages = with_schedules(stages)
    _check_not_beyond(run_dir, stages[0].branch, stages[0].num_steps)
    for run in stages:
        _check_consistency(run)
        # Computed for their errors, which must come before a process group exists.
        deepspeed_config(run.case, run.split, run.schedule, on_gpu=torch.cuda.is_available())
        custom_lr_lambda(run.case, run.schedule)
    changes = check_unchanged(run_dir, case.resolved)
    first, *later = (replace(run, changes=changes) for run in stages)
    return replace(first, later=tuple(later))


def _prepare_stage(
    case: Case,
    whole: Case,
    data_root: str | Path,
    run_dir: Path,
    world: World,
    before: list[RunSetup],
    planned: Sequence[Trunk],
) -> RunSetup:
    """Open the data of one stage, or of a run without stages, that follows the stages before."""
    check_deepspeed_keys(case)
    check_device(case, world)
    warn_of_one_host(case, world)
    warn_of_stage_0(case)
    check_flash_attention(case)
    _warn_of_compiled_rows(case)
    check_packages(case)
    split = split_batch(case, world.world_size)
    train, valid, vocabulary = open_data(case, data_root)
    valid_spec = batch_spec(case, split, world, [*train, *valid.values()], vocabulary)
    branch = None if list_checkpoints(run_dir) else open_branch(case, planned)
    row_length = train_row_length(case, run_dir, branch, valid_spec.row_length, train)
    spec = replace(valid_spec, row_length=row_length)
    previous = before[-1] if before else None
    loader = _open_loader(case, train, vocabulary, spec, previous, lanes_of_stages(whole, run_dir))
    lengths = ScheduleLengths.of(case.bertds.run, loader.plan, mean_length_of(train))
    first_step = loader.plan.first_step
    last_step = first_step + lengths.num_steps
    span = StageSpan(
        name=case.stage,
        first_step=first_step,
        last_step=last_step,
        sequences=loader.plan.sequences(last_step),
        epochs=lengths.epochs(last_step),
    )
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
        schedule=lengths,
        spans=(*(run.spans[-1] for run in before), span),
        number=len(before),
        whole=whole,
        pretrained=None if before else _open_pretrained(case, run_dir, vocabulary),
        branch=branch,
        changes=[],
        previous=previous,
    )


def _open_loader(
    case: Case,
    train: list[DatasetSubset],
    vocabulary: Vocabulary,
    spec: RankBatchSpec,
    previous: RunSetup | None,
    lanes: int | None,
) -> TrainLoader:
    """The training batches of this rank; a stage starts a new epoch."""
    masking, run = case.bertds.masking, case.bertds.run
    masker, batch_size = vocabulary.masker(masking), case.train_batch_size
    data = case.bertds.data
    return TrainLoader(
        [MaskedDataset(subset, masker, masking) for subset in train],
        data if lanes is None else data.model_copy(update={"lanes": lanes}),
        replace(spec, micro_batch_size=run.max_micro_batch_size),
        batch_size=batch_size,
        seed=run.seed,
        warmup=warmup_levels(run.batch_size_warmup, batch_size, mean_length_of(train)),
        first_step=0 if previous is None else previous.last_step,
        first_epoch=0 if previous is None else epoch_after(previous),
    )


def _warn_of_compiled_rows(case: Case) -> None:
    """Without the varlen kernel, a graph holds for one combination of row lengths."""
    has_rows = not uses_varlen_attention(case.bertds.model, case.precision)
    if case.bertds.run.compile and has_rows:
        logger.warning(
            "run.compile is true, but attention is computed in rows here: each combination of row "
            "lengths is compiled anew during a step; use bf16 or fp16 on a GPU, or set it to false"
        )


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


def _check_consistency(run: RunSetup) -> None:
    """No setting contradicts another one, or the length of the run; a run that exists goes on."""
    content, where = run.case.resolved, f"{run.case.name}.json (arm {run.case.arm})"
    if run.case.stage:
        where += f", stage {run.case.stage}"
    if not run.has_own_schedule:
        content = with_length(content, run.num_steps)
    findings = check_consistency(content, run.schedule)
    has_started = bool(list_checkpoints(run.run_dir))
    if findings.errors and not has_started:
        raise problems_error(where, [Problem("", text) for text in findings.errors])
    for text in [*findings.errors, *findings.warnings]:
        logger.warning("%s: %s", where, text)


def _check_not_beyond(run_dir: Path, branch: Branch | None, num_steps: int) -> None:
    """An unfinished run has not made more steps than the case has now; a branch has some to make."""
    if branch is not None and branch.step >= num_steps:
        raise ConfigError(
            f"run.branch_from begins at step {branch.step}, but run.max_steps or run.num_epochs gives "
            f"{num_steps} steps, which include those of {branch.run_dir}: raise it"
        )
    checkpoints = list_checkpoints(run_dir)
    if not checkpoints or read_json(run_dir / "status.json").get("state") == "done":
        return
    step = step_of(checkpoints[0])
    if step > num_steps:
        raise ConfigError(
            f"{run_dir} has a checkpoint of step {step}, but run.max_steps or run.num_epochs gives "
            f"{num_steps} steps: raise it, or train into another --out"
        )
