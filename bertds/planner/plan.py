"""A run on paper, before a job is queued: memory, steps, data, communication, hours.

Everything is arithmetic on the case file and on the index of its shards, or, where there are none
yet, on numbers that the user states. Needs neither torch nor a device.
"""

import math
from dataclasses import dataclass

from bertds.config.batch import BatchSplit
from bertds.config.case import Case
from bertds.config.schema import num_steps
from bertds.data.loader import default_lanes
from bertds.data.sampler import whole_batches
from bertds.errors import ConfigError
from bertds.metrics.flops import model_flops_per_token, peak_flops
from bertds.planner.corpus import Corpus
from bertds.planner.memory import Memory, MicroBatch, count_parameters, memory

_GIB = 1 << 30
_RESERVED = 3 * _GIB
"""For the driver's context, NCCL's buffers and holes between tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A device to plan for."""

    name: str
    """As the driver says it."""
    gib: float
    """Memory, GiB."""

    @property
    def peak(self) -> float:
        """Dense bf16 peak, FLOP/s."""
        peak = peak_flops(self.name)
        assert peak is not None  # a test walks the table
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
    """A ZeRO stage on paper."""

    number: int
    split: BatchSplit
    """The largest micro-batch that fits, or the smallest there is."""
    memory: Memory
    fits: bool
    communication: int
    """Bytes that a GPU sends in a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What `make_plan` found."""

    case: Case
    gpus: int
    gpu: Gpu
    corpus: Corpus
    parameters: int
    lanes: int
    steps: int
    tokens: float
    """Of the whole run."""
    stages: list[Stage]
    step_seconds: float
    """Of computing alone, at the stated MFU."""

    @property
    def hours(self) -> float:
        """Of the whole run."""
        return self.steps * self.step_seconds / 3600


def make_plan(
    case: Case, corpus: Corpus, gpus: int, gpu: Gpu, mfu: float, *, on_gpu: bool = True
) -> Plan:
    """Lay a run out.

    Args:
        case: What to run.
        corpus: Its data.
        gpus: Processes, one a GPU.
        gpu: The device.
        mfu: Share of the device's peak that the model is to reach, 0 to 1.
        on_gpu: False for the memory of a CPU process.

    Raises:
        ConfigError: The batch cannot be divided among so many, or an epoch has no whole one.
    """
    batch = case.train_batch_size
    if batch % gpus:
        raise ConfigError(
            f"train_batch_size is {batch}, which {gpus} GPUs do not divide: change --gpus or --set "
            f"train_batch_size={math.ceil(batch / gpus) * gpus}"
        )
    steps = num_steps(case.bertds.run, whole_batches(corpus.sequences, batch))
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
        corpus=corpus,
        parameters=count_parameters(model, corpus.vocab_size),
        lanes=case.bertds.data.lanes or default_lanes(batch),
        steps=steps,
        tokens=steps * tokens_per_step,
        stages=[_stage(number, case, corpus, gpus, gpu, on_gpu=on_gpu) for number in range(4)],
        step_seconds=tokens_per_step * flops / (gpus * gpu.peak * mfu),
    )


def _stage(number: int, case: Case, corpus: Corpus, gpus: int, gpu: Gpu, *, on_gpu: bool) -> Stage:
    share = case.train_batch_size // gpus
    most = case.bertds.run.max_micro_batch_size
    sizes = [size for size in range(min(share, most), 0, -1) if share % size == 0]
    for size in sizes:
        split = BatchSplit(micro_batch_size=size, accumulation=share // size)
        needed = _memory(number, case, corpus, gpus, split, on_gpu=on_gpu)
        fits = needed.peak + _RESERVED <= gpu.gib * _GIB
        if fits or size == 1:
            sent = communication(case, number, gpus, split.accumulation, corpus.vocab_size)
            return Stage(number=number, split=split, memory=needed, fits=fits, communication=sent)
    raise AssertionError("1 divides every number")


def _memory(
    stage: int, case: Case, corpus: Corpus, gpus: int, split: BatchSplit, *, on_gpu: bool
) -> Memory:
    tokens = math.ceil(split.micro_batch_size * corpus.mean_length)
    varlen = on_gpu and case.bertds.model.supports_varlen_attention(case.precision)
    micro_batch = MicroBatch(
        num_tokens=tokens,
        num_masked=math.ceil(tokens * case.bertds.masking.ratio),
        row_length=0 if varlen else case.bertds.data.seq_len,
    )
    return memory(
        case,
        stage,
        gpus,
        micro_batch,
        vocab_size=corpus.vocab_size,
        accumulation=split.accumulation,
        on_gpu=on_gpu,
    )


def communication(case: Case, stage: int, gpus: int, accumulation: int, vocab_size: int) -> int:
    """Bytes that each GPU sends in a step, by rings.

    Args:
        case: The case.
        stage: ZeRO stage.
        gpus: W; each gathering or reduction of n bytes sends n (W - 1) / W.
        accumulation: Micro-steps of a step.
        vocab_size: V.
    """
    width = 4 if case.precision == "fp32" else 2
    size = width * count_parameters(case.bertds.model, vocab_size)
    # 0, 1: gradients once (an all-reduce is two passes); 2: they are spread each micro-step;
    # 3: weights are gathered forward and backward as well.
    passes = {0: 2, 1: 2, 2: accumulation + 1, 3: 3 * accumulation}[stage]
    return size * passes * (gpus - 1) // gpus


def table(plan: Plan, gpus_per_node: int) -> str:
    """The plan as text.

    Args:
        plan: The plan.
        gpus_per_node: For what each host reads.
    """
    case, corpus = plan.case, plan.corpus
    speed = case.train_batch_size * corpus.mean_length / plan.step_seconds
    # A process reads its lanes whole, also where it shares them with others.
    readers = max(1.0, plan.gpus / plan.lanes)
    on_host = min(gpus_per_node, plan.gpus)
    per_node = speed * on_host / plan.gpus * corpus.bytes_per_token * readers
    held = " ".join(f"{title:>{width}}" for title, width in _COLUMNS.items())
    text = f"""\
{case.name}/{case.arm} on {plan.gpus} x {plan.gpu.name}, {case.precision}
model    {plan.parameters:,} parameters, {corpus.vocab_size:,} ids
data     {corpus.mean_length:.1f} tokens a sequence ({corpus.source})
steps    {plan.steps:,} of {case.train_batch_size} sequences, {plan.tokens:,.0f} tokens
lanes    {plan.lanes}{_advice(plan)}
reading  {per_node / 1e6:.2f} MB a second on each host of {on_host}
time     {plan.step_seconds:.4f} s a step, {plan.hours:.1f} h, {plan.hours * plan.gpus:,.0f} GPU-hours \
of computing at the stated MFU

GiB a GPU {held}  fits  micro x accumulation  sent a step"""
    return "\n".join([text, *(_row(stage) for stage in plan.stages)])


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


def _advice(plan: Plan) -> str:
    if plan.lanes >= plan.gpus:
        return ""
    return (
        f": fewer than GPUs, so each block is read by {plan.gpus / plan.lanes:.0f} of them; set "
        f"data.lanes={plan.gpus} before the run begins"
    )


def _row(stage: Stage) -> str:
    figures = " ".join(
        f"{getattr(stage.memory, title) / _GIB:{width}.2f}" for title, width in _COLUMNS.items()
    )
    fits = "yes" if stage.fits else "no"
    split = f"{stage.split.micro_batch_size} x {stage.split.accumulation}"
    sent = f"{stage.communication / _GIB:.2f} GiB"
    return f"ZeRO {stage.number}    {figures}  {fits:>4}  {split:>20}  {sent:>11}"
