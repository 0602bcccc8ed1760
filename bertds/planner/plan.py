"""Resource estimate of a run: memory, steps, reading, communication and time.

All numbers are computed from the case file and from the shard indexes, or from numbers that the
user states. Needs neither torch nor a device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bertds.config.batch import BatchSplit, common_size
from bertds.config.batch_plan import BatchPlan, ChainedPlans, warmup_levels
from bertds.config.case import Case
from bertds.config.consistency import check_consistency
from bertds.config.messages import Problem, problems_error
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import branch_point
from bertds.config.stages import follows_whole_run, with_length
from bertds.data.loader import default_lanes
from bertds.data.sampler import whole_batches
from bertds.errors import ConfigError
from bertds.metrics.flops import model_flops_per_token, peak_flops
from bertds.planner.corpus import Corpus
from bertds.planner.memory import Memory, MicroBatch, count_parameters, memory

_GIB = 1 << 30
_RESERVED_GIB = 3
"""For the driver's context, NCCL's buffers and fragmentation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A GPU model."""

    name: str
    """As the driver reports it."""
    gib: float
    """Memory, GiB."""

    @property
    def peak(self) -> float:
        """Dense bf16 peak, FLOP/s."""
        peak = peak_flops(self.name)
        assert peak is not None  # a test checks all of GPUS
        return peak


GPUS = {
    "v100": Gpu(name="Tesla V100-SXM2-32GB", gib=31.7),
    "a100": Gpu(name="NVIDIA A100-SXM4-80GB", gib=79.2),
    "h100": Gpu(name="NVIDIA H100 80GB HBM3", gib=79.2),
    "h200": Gpu(name="NVIDIA H200", gib=139.8),
    "b200": Gpu(name="NVIDIA B200", gib=178.4),
    "l4": Gpu(name="NVIDIA L4", gib=22.0),
    "4090": Gpu(name="NVIDIA GeForce RTX 4090", gib=23.6),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """The estimate for one ZeRO stage."""

    number: int
    split: BatchSplit
    """With the largest micro-batch that fits, or with one sequence if none fits."""
    memory: Memory
    fits: bool
    communication: int
    """Bytes that a GPU sends per step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The resource estimate of a run."""

    case: Case
    gpus: int
    gpu: Gpu
    mfu: float
    corpus: Corpus
    parameters: int
    lanes: int
    batches: BatchPlan
    steps: int
    """Of the run itself, without those before it branches from another."""
    tokens: float
    """Of all steps."""
    stages: list[Stage]
    step_seconds: float
    """Compute time per step of train_batch_size at the stated MFU, without communication."""
    warnings: list[str]
    """Settings that may not fit the length of the run."""

    @property
    def hours(self) -> float:
        """Compute time of all steps."""
        # A step takes as long as its tokens.
        full_steps = self.tokens / (self.corpus.mean_length * self.case.train_batch_size)
        return full_steps * self.step_seconds / 3600


def make_plans(
    case: Case, corpora: Sequence[Corpus], gpus: int, gpu: Gpu, mfu: float
) -> list[Plan]:
    """Estimate the resources of each stage of a run; of the run, if it has no stages.

    Args:
        case: The case.
        corpora: The data of each stage.
        gpus: Number of GPUs, each with one process.
        gpu: The GPU model.
        mfu: Assumed model FLOPs utilization, 0 to 1.

    Raises:
        ConfigError: As `make_plan`.
    """
    if not case.stages:
        return [make_plan(case, corpora[0], gpus, gpu, mfu)]
    parts: list[tuple[BatchPlan, int]] = []
    for stage, corpus in zip(case.stages, corpora, strict=True):
        batches = _batches(stage, corpus, gpus, first_step=parts[-1][1] if parts else 0)
        lengths = ScheduleLengths.of(stage.bertds.run, batches, corpus.mean_length)
        parts.append((batches, batches.first_step + lengths.num_steps))
    whole = ScheduleLengths(parts[0][0].steps_per_epoch, parts[-1][1], plan=ChainedPlans(parts))
    lanes = case.bertds.data.lanes or default_lanes(common_size(case.stages))
    plans = []
    for stage, corpus in zip(case.stages, corpora, strict=True):
        shared = whole if follows_whole_run(case.resolved, stage.stage) else None
        plans.append(replace(make_plan(stage, corpus, gpus, gpu, mfu, shared), lanes=lanes))
    return plans


def _batches(case: Case, corpus: Corpus, gpus: int, first_step: int = 0) -> BatchPlan:
    """The batches of a run or a stage; they are multiples of the number of GPUs."""
    batch, warmup = case.train_batch_size, case.bertds.run.batch_size_warmup
    if batch % gpus:
        raise ConfigError(
            f"train_batch_size is {batch}, expected a multiple of --gpus {gpus}: change --gpus, or "
            f"pass --set train_batch_size={math.ceil(batch / gpus) * gpus}"
        )
    if warmup is not None and warmup.step_size % gpus:
        raise ConfigError(
            f"run.batch_size_warmup has batches of every multiple of {warmup.step_size} sequences, "
            f"expected multiples of --gpus {gpus}: change --gpus, or set multiple_of to a multiple"
        )
    whole_batches(corpus.sequences, batch)
    levels = warmup_levels(warmup, batch, corpus.mean_length)
    return BatchPlan(corpus.sequences, batch, levels, first_step=first_step)


def make_plan(
    case: Case,
    corpus: Corpus,
    gpus: int,
    gpu: Gpu,
    mfu: float,
    schedule: ScheduleLengths | None = None,
) -> Plan:
    """Estimate the resources of a run.

    Args:
        case: The case.
        corpus: Its data.
        gpus: Number of GPUs, each with one process.
        gpu: The GPU model.
        mfu: Assumed model FLOPs utilization, 0 to 1.
        schedule: What the learning-rate schedule spans, if it is not the run.

    Raises:
        ConfigError: The batch size is not a multiple of the number of GPUs, an epoch has fewer
            sequences than a batch, or settings contradict one another or the length of the run.
    """
    batch, batches = case.train_batch_size, _batches(case, corpus, gpus)
    lengths = ScheduleLengths.of(case.bertds.run, batches, corpus.mean_length)
    trunk, sequences = case.bertds.run.branch_from, batches.sequences
    own_steps = lengths.num_steps - min(lengths.num_steps, branch_point(trunk)[1] if trunk else 0)
    content = with_length(case.resolved, schedule.num_steps) if schedule else case.resolved
    findings = check_consistency(content, schedule or lengths)
    if findings.errors:
        where = f"{case.name}.json (arm {case.arm})"
        raise problems_error(where, [Problem("", text) for text in findings.errors])
    model = case.bertds.model
    flops = model_flops_per_token(
        hidden_size=model.hidden_size,
        num_layers=model.num_hidden_layers,
        intermediate_size=model.intermediate_size,
        glu=model.feed_forward == "glu",
        mean_length=corpus.mean_length,
        vocab_size=corpus.vocab_size,
        masked_share=case.bertds.masking.ratio,
    )
    tokens_per_step = batch * corpus.mean_length
    return Plan(
        case=case,
        gpus=gpus,
        gpu=gpu,
        mfu=mfu,
        corpus=corpus,
        parameters=count_parameters(model, corpus.vocab_size),
        lanes=case.bertds.data.lanes or default_lanes(batches.multiple),
        batches=batches,
        steps=own_steps,
        tokens=(sequences(lengths.num_steps) - sequences(lengths.num_steps - own_steps))
        * corpus.mean_length,
        stages=[_stage(number, case, corpus, gpus, gpu) for number in range(4)],
        step_seconds=tokens_per_step * flops / (gpus * gpu.peak * mfu),
        warnings=findings.warnings,
    )


def _stage(number: int, case: Case, corpus: Corpus, gpus: int, gpu: Gpu) -> Stage:
    """Find the largest micro-batch that fits."""
    per_gpu = case.train_batch_size // gpus
    masked_fraction = case.bertds.masking.ratio
    is_varlen = case.bertds.model.supports_varlen_attention(case.precision)
    for size in range(min(per_gpu, case.bertds.run.max_micro_batch_size), 0, -1):
        if per_gpu % size:
            continue
        tokens = math.ceil(size * corpus.mean_length)
        accumulation = per_gpu // size
        needed = memory(
            case,
            number,
            gpus,
            MicroBatch(
                num_tokens=tokens,
                num_masked=math.ceil(tokens * masked_fraction),
                row_length=0 if is_varlen else case.bertds.data.seq_len,
            ),
            vocab_size=corpus.vocab_size,
            accumulation=accumulation,
        )
        fits = needed.peak + _RESERVED_GIB * _GIB <= gpu.gib * _GIB
        if fits or size == 1:
            return Stage(
                number=number,
                split=BatchSplit(micro_batch_size=size, accumulation=accumulation),
                memory=needed,
                fits=fits,
                communication=communication(case, number, gpus, accumulation, corpus.vocab_size),
            )
    raise AssertionError("1 divides every number")


def communication(case: Case, stage: int, gpus: int, accumulation: int, vocab_size: int) -> int:
    """Communication volume: bytes that each GPU sends per step, with ring collectives.

    Args:
        case: The case.
        stage: ZeRO stage.
        gpus: W; an all-gather or a reduce-scatter of n bytes sends n (W - 1) / W.
        accumulation: Micro-batches per step.
        vocab_size: V.
    """
    width = 4 if case.precision == "fp32" else 2
    size = width * count_parameters(case.bertds.model, vocab_size)
    # Stage 0 and 1: a reduce-scatter and an all-gather per step (stage 0: as one all-reduce).
    # Stage 2: a reduce-scatter per micro-batch, an all-gather per step.
    # Stage 3: a reduce-scatter and two all-gathers, forward and backward, per micro-batch.
    collectives = {0: 2, 1: 2, 2: accumulation + 1, 3: 3 * accumulation}[stage]
    return size * collectives * (gpus - 1) // gpus


_COLUMNS = {
    "weights": 8,
    "optimizer": 9,
    "buckets": 7,
    "activations": 11,
    "logits": 7,
    "gradients": 9,
    "update": 7,
    "peak": 7,
}


def stage_table(plans: Sequence[Plan]) -> str:
    """Write the length of each stage and of the run as text for the terminal."""
    names = [*(plan.case.stage for plan in plans), "all"]
    width = max(map(len, names))
    rows = [(plan.steps, plan.tokens, plan.hours) for plan in plans]
    rows.append(
        (sum(row[0] for row in rows), sum(row[1] for row in rows), sum(row[2] for row in rows))
    )
    return "\n".join(
        f"stage {name:<{width}}  {steps:>12,} steps {tokens:>19,.0f} tokens {hours:>10,.1f} h"
        for name, (steps, tokens, hours) in zip(names, rows, strict=True)
    )


def table(plan: Plan, gpus_per_node: int) -> str:
    """Write the estimate as text for the terminal."""
    case, corpus = plan.case, plan.corpus
    lanes = f"{plan.lanes}"
    if plan.lanes < plan.gpus:
        lanes += (
            f": fewer than GPUs, so each block is read by {plan.gpus / plan.lanes:.0f} of them; "
            f"set data.lanes={plan.gpus} before the run starts"
        )
    tokens_per_s = case.train_batch_size * corpus.mean_length / plan.step_seconds
    host = min(gpus_per_node, plan.gpus)
    # A process reads whole lanes, even if it shares them with others.
    readers = max(1.0, plan.gpus / plan.lanes)
    bytes_per_s = tokens_per_s * host / plan.gpus * corpus.bytes_per_token * readers
    header = " ".join(f"{title:>{width}}" for title, width in _COLUMNS.items())
    time = (
        f"{plan.step_seconds:.4f} s/step, {plan.hours:.1f} h, {plan.hours * plan.gpus:,.0f} "
        f"GPU-hours; compute only, at {plan.mfu:.0%} MFU"
    )
    stage = f", stage {case.stage}," if case.stage else ""
    warmup = "" if plan.batches.is_constant else f" ({plan.batches.describe()})"
    batches = f"{plan.steps:,} of {case.train_batch_size} sequences{warmup}"
    lines = [
        f"{case.name}/{case.arm}{stage} on {plan.gpus} x {plan.gpu.name}, {case.precision}",
        f"model    {plan.parameters:,} parameters, vocabulary of {corpus.vocab_size:,}",
        f"data     {corpus.mean_length:.1f} tokens per sequence ({corpus.source})",
        f"steps    {batches}, {plan.tokens:,.0f} tokens",
        f"lanes    {lanes}",
        f"reading  {bytes_per_s / 1e6:.2f} MB/s per host; GPUs per host: {host}",
        f"time     {time}",
        *(f"warning  {text}" for text in plan.warnings),
        "",
        f"{plan.gpu.gib} GiB per GPU, {_RESERVED_GIB} of them reserved for the driver and NCCL.",
        "peak = weights + optimizer + buckets + max(activations + logits, gradients, update)",
        "Columns in GiB, for the largest micro-batch that fits:",
        "",
        f"        {header}  fits  micro-batch x accumulation  GiB sent per step",
    ]
    for zero in plan.stages:
        gib = {title: getattr(zero.memory, title) / _GIB for title in _COLUMNS}
        cells = " ".join(f"{gib[title]:{width}.2f}" for title, width in _COLUMNS.items())
        split = f"{zero.split.micro_batch_size} x {zero.split.accumulation}"
        lines.append(
            f"ZeRO {zero.number}  {cells}  {'yes' if zero.fits else 'no':>4}  {split:>26}  "
            f"{zero.communication / _GIB:17.2f}"
        )
    return "\n".join(lines)
