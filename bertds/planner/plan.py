"""Resource estimate of a run: memory, steps, reading, communication and time.

All numbers are computed from the case file and from the shard indexes, or from numbers that the
user states. Needs neither torch nor a device.
"""

import math
from dataclasses import dataclass

from bertds.config.batch import BatchSplit
from bertds.config.case import Case
from bertds.config.consistency import check_consistency
from bertds.config.messages import Problem, problems_error
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.config.schema import branch_point, num_steps
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
    steps: int
    """Of the run itself, without those before it branches from another."""
    tokens: float
    """Of all steps."""
    stages: list[Stage]
    step_seconds: float
    """Compute time per step at the stated MFU, without communication."""
    warnings: list[str]
    """Settings that may not fit the length of the run."""

    @property
    def hours(self) -> float:
        """Compute time of all steps."""
        return self.steps * self.step_seconds / 3600


def make_plan(case: Case, corpus: Corpus, gpus: int, gpu: Gpu, mfu: float) -> Plan:
    """Estimate the resources of a run.

    Args:
        case: The case.
        corpus: Its data.
        gpus: Number of GPUs, each with one process.
        gpu: The GPU model.
        mfu: Assumed model FLOPs utilization, 0 to 1.

    Raises:
        ConfigError: The batch size is not a multiple of the number of GPUs, an epoch has fewer
            sequences than a batch, or settings contradict one another or the length of the run.
    """
    batch = case.train_batch_size
    if batch % gpus:
        raise ConfigError(
            f"train_batch_size is {batch}, expected a multiple of --gpus {gpus}: change --gpus, or "
            f"pass --set train_batch_size={math.ceil(batch / gpus) * gpus}"
        )
    steps_per_epoch = whole_batches(corpus.sequences, batch)
    steps = num_steps(case.bertds.run, steps_per_epoch)
    trunk = case.bertds.run.branch_from
    own_steps = max(0, steps - branch_point(trunk)[1]) if trunk is not None else steps
    findings = check_consistency(case.resolved, ScheduleLengths(steps_per_epoch, steps))
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
        lanes=case.bertds.data.lanes or default_lanes(batch),
        steps=own_steps,
        tokens=own_steps * tokens_per_step,
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
    lines = [
        f"{case.name}/{case.arm} on {plan.gpus} x {plan.gpu.name}, {case.precision}",
        f"model    {plan.parameters:,} parameters, vocabulary of {corpus.vocab_size:,}",
        f"data     {corpus.mean_length:.1f} tokens per sequence ({corpus.source})",
        f"steps    {plan.steps:,} of {case.train_batch_size} sequences, {plan.tokens:,.0f} tokens",
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
    for stage in plan.stages:
        gib = {title: getattr(stage.memory, title) / _GIB for title in _COLUMNS}
        cells = " ".join(f"{gib[title]:{width}.2f}" for title, width in _COLUMNS.items())
        split = f"{stage.split.micro_batch_size} x {stage.split.accumulation}"
        lines.append(
            f"ZeRO {stage.number}  {cells}  {'yes' if stage.fits else 'no':>4}  {split:>26}  "
            f"{stage.communication / _GIB:17.2f}"
        )
    return "\n".join(lines)
