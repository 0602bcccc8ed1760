"""What a model in training takes of a device's memory, by arithmetic on its case.

    peak = weights + optimizer + buckets + the largest of
             activations + logits      when the forward pass ends
             gradients                 when the backward pass ends
             update                    while the optimizer runs

P numbers are trained, W processes share them as the ZeRO stage says; DeepSpeed's buckets hold at
most `reduce_bucket_size` numbers, on a GPU from the start, in a CPU's resident memory as far as
they are used. What depends on the libraries (which tensors autograd keeps, DeepSpeed 0.19's copies)
was read off measured peaks; a test holds the whole against peaks of other cases, within 15 %. Those
are of CPUs: no peak of a GPU has been measured.
"""

from dataclasses import dataclass
from typing import Any

from bertds.config.case import Case
from bertds.config.schema import ModelConfig

_FP32 = 4
_MOMENTS = 8  # Adam's two, in fp32
_BUCKET = 500_000_000  # DeepSpeed's default reduce_bucket_size
_LIVE = 1_000_000_000  # and stage3_max_live_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What a process computes at once."""

    num_tokens: int
    """T, filler included."""
    num_masked: int
    """M."""
    row_length: int
    """Tokens of a row of plain attention; 0 for the varlen kernel, which makes no L x L mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one process."""

    weights: int
    """In the model's precision, and their fp32 copies."""
    optimizer: int
    """Adam's moments."""
    buckets: int
    """Buffers that DeepSpeed keeps."""
    activations: int
    """What the layers keep for the backward pass."""
    logits: int
    """Logits of the masked positions, and what cross-entropy keeps of them."""
    gradients: int
    """At the end of the backward pass, with the bucket that they are reduced in."""
    update: int
    """While the optimizer runs."""

    @property
    def peak(self) -> int:
        """The most at any time of a step."""
        kept = self.weights + self.optimizer + self.buckets
        return kept + max(self.activations + self.logits, self.gradients, self.update)


def memory(
    case: Case,
    stage: int,
    world_size: int,
    micro_batch: MicroBatch,
    *,
    vocab_size: int,
    accumulation: int = 1,
    on_gpu: bool = True,
) -> Memory:
    """The memory of one process.

    Args:
        case: The case; its own ZeRO stage is not used.
        stage: ZeRO stage, 0 to 3.
        world_size: W.
        micro_batch: What is computed at once.
        vocab_size: V.
        accumulation: Micro-steps of a step.
        on_gpu: Whether on a GPU, where kernels are fused and buffers are there from the start.
    """
    model = case.bertds.model
    zero = case.deepspeed.get("zero_optimization", {})
    width = _FP32 if case.precision == "fp32" else 2
    size = count_parameters(model, vocab_size)
    state = _state(stage, world_size, size, width)
    bucket = _bucket(zero, stage, size, width, on_gpu=on_gpu)
    # On a GPU it is there as a whole when the backward pass begins.
    kept = bucket if stage == 3 or (stage > 0 and on_gpu) else 0
    gathered = min(size, zero.get("stage3_max_live_parameters", _LIVE)) if stage == 3 else 0
    waiting = _waiting(stage, world_size, size, width) if accumulation > 1 else 0
    live = width * gathered + waiting
    return Memory(
        weights=state["weights"],
        optimizer=state["optimizer"],
        buckets=kept + state["gradients"],
        activations=live + _activations(model, micro_batch, width, on_gpu=on_gpu),
        logits=_logits(model, micro_batch, vocab_size, width),
        gradients=_gradients(model, stage, size, width, vocab_size)
        + (bucket - kept + width * gathered),
        update=_update(model, stage, world_size, size, width, vocab_size, on_gpu=on_gpu),
    )


def count_parameters(model: ModelConfig, vocab_size: int, pad_id: int = 0) -> int:
    """Numbers that are trained, each shared one once.

    Args:
        model: The architecture.
        vocab_size: V.
        pad_id: The filler's id, on which bert-prenorm's table of positions depends.
    """
    width, inner = model.hidden_size, model.intermediate_size
    bias = int(model.bias)
    norm = width * (1 + bias)
    learned = model.positions == "learned"
    offset = pad_id + 1 if model.preset == "bert-prenorm" else 0
    embeddings = vocab_size * width + norm
    embeddings += (model.max_position_embeddings + offset) * width if learned else 0
    gates = 2 if model.feed_forward == "glu" else 1
    attention = 4 * width * width + bias * 4 * width
    feed_forward = (gates + 1) * width * inner + bias * (gates * inner + width)
    layers = model.num_hidden_layers * (attention + feed_forward + 2 * norm)
    is_pre = model.norm == "pre"
    layers -= norm if model.preset == "modernbert" and is_pre else 0
    decoder = vocab_size if model.tie_word_embeddings else vocab_size * (width + 1)
    head = width * width + bias * width + norm + decoder
    return embeddings + layers + (norm if is_pre else 0) + head


def _state(stage: int, world_size: int, size: int, width: int) -> dict[str, int]:
    """What stays from step to step, in bytes."""
    part = size if stage == 0 else -(-size // world_size)
    held = part if stage == 3 else size
    # DeepSpeed keeps an fp32 copy of each partition even where the weights are fp32.
    copies = _FP32 * part if stage > 0 or width < _FP32 else 0
    return {
        "weights": width * held + copies,
        "optimizer": _MOMENTS * part,
        "gradients": width * part if stage == 3 else 0,
    }


def _bucket(zero: dict[str, Any], stage: int, size: int, width: int, *, on_gpu: bool) -> int:
    numbers = int(zero.get("reduce_bucket_size", _BUCKET))
    if stage == 0 or not on_gpu:
        numbers = min(numbers, size)
    doubled = stage > 0 and zero.get("overlap_comm", stage == 3) and on_gpu
    return width * numbers * (2 if doubled else 1)


def _waiting(stage: int, world_size: int, size: int, width: int) -> int:
    """Gradients of the micro-steps before; stage 3 has a place for them anyway."""
    return {0: width * size, 1: width * size, 2: width * size // world_size, 3: 0}[stage]


def _gradients(model: ModelConfig, stage: int, size: int, width: int, vocab_size: int) -> int:
    # A tied embedding has two gradients, one of each use, before they are added.
    twice = width * vocab_size * model.hidden_size if model.tie_word_embeddings else 0
    copies = _FP32 * size if stage == 0 and width < _FP32 else 0
    return width * size + copies + twice


def _update(
    model: ModelConfig,
    stage: int,
    world_size: int,
    size: int,
    width: int,
    vocab_size: int,
    *,
    on_gpu: bool,
) -> int:
    """Gradients in fp32 and in the model's precision; torch's Adam adds two tensors in between."""
    between = 0 if on_gpu else _MOMENTS
    if stage == 0:
        largest = vocab_size * model.hidden_size
        return (width + (_FP32 if width < _FP32 else 0)) * size + between * largest
    part = -(-size // world_size)
    return (_FP32 + between + (width if stage < 3 else 0)) * part


def _activations(model: ModelConfig, micro: MicroBatch, width: int, *, on_gpu: bool) -> int:
    """What autograd keeps: inputs of matrices, norms, activations and attention."""
    layer = _layer_bytes(model, micro, width, on_gpu=on_gpu)
    between = width * model.hidden_size
    if model.gradient_checkpointing:
        per_token = model.num_hidden_layers * between + layer
    else:
        per_token = model.num_hidden_layers * layer
    masks = micro.row_length if micro.row_length else 0
    return micro.num_tokens * (per_token + 3 * between + masks)


def _layer_bytes(model: ModelConfig, micro: MicroBatch, width: int, *, on_gpu: bool) -> int:
    """Of one token in one layer."""
    hidden, inner = model.hidden_size, model.intermediate_size
    rotated = 2 if model.positions == "rope" else 0
    # input of the norm and its output, twice; query, key, value; attention's output
    numbers = (8 + rotated) * hidden
    if model.feed_forward == "glu":
        numbers += 4 * inner
    else:
        numbers += inner if model.hidden_act == "relu" else 2 * inner
    dropped = 2 * hidden * (1 if on_gpu else width) if model.hidden_dropout_prob > 0 else 0
    statistics = _FP32 * (4 + model.num_attention_heads)
    # Plain attention turns the mask of a row into numbers, in each layer.
    return width * (numbers + micro.row_length) + dropped + statistics


def _logits(model: ModelConfig, micro: MicroBatch, vocab_size: int, width: int) -> int:
    """The soft-max, and two gradients of it, in fp32; the logits themselves in 16 bits."""
    of_row = 3 * _FP32 * vocab_size + (width * vocab_size if width < _FP32 else 0)
    return micro.num_masked * (of_row + 5 * width * model.hidden_size)
