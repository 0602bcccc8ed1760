"""Estimates the device memory of training, from the settings of a case.

    peak = weights + optimizer + buckets + the largest of
             activations + logits      while the loss is computed, and after it
             gradients                 at the end of the backward pass
             update                    during the optimizer step

The number of parameters is P; W processes share them as the ZeRO stage says. DeepSpeed's bucket
holds at most `reduce_bucket_size` numbers, by default P. At stages 1 and 2 on a GPU it exists from the
first gradient to the update; on a CPU only the used part is resident. The terms that depend on the
libraries (tensors that autograd keeps, copies of DeepSpeed 0.19) are fitted to measured peaks. Tests
compare the estimate with peaks of CPU processes, within 15 %. No GPU peak has been measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertds.config.case import Case
from bertds.config.schema import ModelConfig

_FP32 = 4
_MOMENTS = 8  # Adam's two moments, in fp32
_MOMENTUM = 4  # the one moment of Lion, and of Muon for its matrices
_BUCKET = 500_000_000  # DeepSpeed's default reduce_bucket_size
_LOSS_CHUNK = 1 << 26  # numbers that `model/loss.py` widens at once on a GPU
_LIVE = 1_000_000_000  # DeepSpeed's default stage3_max_live_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What a process computes at once."""

    num_tokens: int
    """T, with padding."""
    num_masked: int
    """M."""
    row_length: int
    """L, tokens per row of plain attention; 0 for the varlen kernel, which needs no L x L mask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one process."""

    weights: int
    """In the model's precision, with their fp32 copies."""
    optimizer: int
    """The optimizer's moments, and the moving average of the weights if there is one."""
    buckets: int
    """Communication buffers of DeepSpeed that exist all the time."""
    activations: int
    """Tensors that the layers keep for the backward pass."""
    logits: int
    """Logits of the masked positions, with the tensors of the cross-entropy; or the bucket, which
    follows them, if it is larger."""
    gradients: int
    """At the end of the backward pass, with the bucket in which they are reduced."""
    update: int
    """Gradients and temporary tensors of the optimizer step."""

    @property
    def peak(self) -> int:
        """The maximum over a step."""
        persistent = self.weights + self.optimizer + self.buckets
        return persistent + max(self.activations + self.logits, self.gradients, self.update)


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
    """Estimate the memory of one process.

    Args:
        case: The case; its own ZeRO stage is ignored.
        stage: ZeRO stage, 0 to 3.
        world_size: W.
        micro_batch: What a process computes at once.
        vocab_size: Number of ids of the tokenizer.
        accumulation: Micro-batches per step.
        on_gpu: Whether kernels are fused and buffers are allocated from the start.
    """
    model, zero = case.bertds.model, case.deepspeed.get("zero_optimization", {})
    vocab_size = model.padded_vocab_size(vocab_size)
    width = _FP32 if case.precision == "fp32" else 2
    size = count_parameters(model, vocab_size)
    part = size if stage == 0 else -(-size // world_size)
    # DeepSpeed keeps an fp32 copy of each partition even if the weights are fp32.
    copies = _FP32 * part if stage > 0 or width < _FP32 else 0

    bucket = _bucket(zero, stage, size, width, on_gpu=on_gpu)
    live = min(size, zero.get("stage3_max_live_parameters", _LIVE))
    gathered = width * live if stage == 3 else 0
    table = width * vocab_size * model.hidden_size  # the gradient of the embeddings
    tied = table if model.tie_word_embeddings else 0  # one gradient per use, before they are added

    # Gradients of earlier micro-batches; stage 3 always has a buffer for them.
    accumulated = {0: width * size, 1: width * size, 2: width * size // world_size, 3: 0}[stage]
    logits = _logits(micro_batch, model.hidden_size, vocab_size, width, on_gpu=on_gpu)
    if stage in (1, 2) and on_gpu:
        logits = max(logits, bucket + tied)
        # Each gradient moves into the bucket, and after the reduction into this rank's part.
        gradients = bucket + max(table + tied, width * part)
    else:
        gradients = width * size + gathered + tied + (0 if stage == 3 else bucket)
        gradients += _FP32 * size if stage == 0 and width < _FP32 else 0
    return Memory(
        weights=width * (part if stage == 3 else size) + copies,
        optimizer=-(-_states(case, size) * part // size),
        buckets=bucket + width * part if stage == 3 else 0,
        activations=gathered
        + (accumulated if accumulation > 1 else 0)
        + _activations(model, micro_batch, width, on_gpu=on_gpu),
        logits=logits,
        gradients=gradients,
        update=_update(model, stage, size, part, width, vocab_size, on_gpu=on_gpu),
    )


def _states(case: Case, size: int) -> int:
    """Moments of all parameters, and their moving average if the case has one."""
    average = 0 if case.bertds.run.ema_decay is None else _FP32 * size
    match case.deepspeed["optimizer"]["type"]:
        case "Lion":
            return _MOMENTUM * size + average
        case "Muon":
            return _MOMENTS * size - _MOMENTUM * _hidden_matrices(case.bertds.model) + average
        case _:
            return _MOMENTS * size + average


def _hidden_matrices(model: ModelConfig) -> int:
    """Numbers of the matrices of the layers."""
    gates = 2 if model.feed_forward == "glu" else 1
    attention = 4 * model.hidden_size**2
    feed_forward = (gates + 1) * model.hidden_size * model.intermediate_size
    return model.num_hidden_layers * (attention + feed_forward)


def _bucket(zero: Mapping[str, Any], stage: int, size: int, width: int, *, on_gpu: bool) -> int:
    """The bucket that gradients are reduced in; by default it is no larger than the model."""
    numbers = int(zero.get("reduce_bucket_size", min(_BUCKET, size)))
    if stage == 0 or not on_gpu:
        return width * min(numbers, size)
    return width * numbers * (2 if zero.get("overlap_comm", stage == 3) else 1)


def count_parameters(model: ModelConfig, vocab_size: int, pad_id: int = 0) -> int:
    """Count the trained parameters, shared ones once.

    Args:
        model: The architecture.
        vocab_size: Number of ids of the tokenizer.
        pad_id: Id of the padding token; the position table of some presets starts after it.
    """
    width, inner = model.hidden_size, model.intermediate_size
    bias = int(model.bias)
    norm = width * (1 + bias)
    learned = model.positions == "learned"
    offset = pad_id + 1 if model.traits.counts_positions_from_pad else 0
    rows = model.padded_vocab_size(vocab_size)
    embeddings = rows * width + norm
    embeddings += (model.max_position_embeddings + offset) * width if learned else 0
    embeddings += model.type_vocab_size * width
    gates = 2 if model.feed_forward == "glu" else 1
    attention = 4 * width * width + bias * 4 * width
    feed_forward = (gates + 1) * width * inner + bias * (gates * inner + width)
    layers = model.num_hidden_layers * (attention + feed_forward + 2 * norm)
    is_pre = model.norm == "pre"
    layers -= norm if is_pre and not model.traits.first_attention_norm else 0
    decoder = rows if model.tie_word_embeddings else rows * (width + 1)
    head = width * width + bias * width + norm + decoder
    return embeddings + layers + (norm if is_pre else 0) + head


def _update(
    model: ModelConfig,
    stage: int,
    size: int,
    part: int,
    width: int,
    vocab_size: int,
    *,
    on_gpu: bool,
) -> int:
    """Gradients in fp32 and in the model's precision, and two temporary tensors of torch's Adam.

    At stages 1 and 2 the latter are there twice: in parts, and concatenated.
    """
    temporary = 0 if on_gpu else _MOMENTS
    if stage == 0:
        largest = vocab_size * model.hidden_size
        return (width + (_FP32 if width < _FP32 else 0)) * size + temporary * largest
    if stage < 3 and on_gpu:
        return (2 * width + (_FP32 if width < _FP32 else 0)) * part
    return (_FP32 + temporary + (width if stage < 3 else 0)) * part


def _activations(model: ModelConfig, micro: MicroBatch, width: int, *, on_gpu: bool) -> int:
    """Tensors that autograd keeps: inputs of matrices, norms, activations and attention."""
    hidden, inner = model.hidden_size, model.intermediate_size
    # Per token and layer: input and output of two norms; query, key, value; output of attention.
    numbers = 8 * hidden
    if model.feed_forward == "glu":
        numbers += 4 * inner
    else:
        numbers += inner if model.hidden_act == "relu" else 2 * inner
    dropout = 2 * hidden * (1 if on_gpu else width) if model.hidden_dropout_prob > 0 else 0
    statistics = _FP32 * (4 + model.num_attention_heads)
    # Plain attention converts the mask of a row to numbers in each layer.
    layer = width * (numbers + micro.row_length) + dropout + statistics

    between = width * hidden
    if model.gradient_checkpointing:
        per_token = model.num_hidden_layers * between + layer
    else:
        per_token = model.num_hidden_layers * layer
    return micro.num_tokens * (per_token + 3 * between + micro.row_length)


def _logits(micro: MicroBatch, hidden: int, vocab_size: int, width: int, *, on_gpu: bool) -> int:
    """The head and the loss, which takes the logits in chunks of 32 bits.

    On a GPU: forward, a chunk is there twice, widened if it has 16 bits, and inside the log-sum-exp;
    backward, the gradient of all logits is there, and one chunk. The term for a CPU is fitted.
    """
    numbers = micro.num_masked * vocab_size
    if on_gpu:
        chunk = _FP32 * min(numbers, _LOSS_CHUNK)
        forward = width * numbers + (chunk if width == _FP32 else 2 * chunk)
        loss = max(forward, 2 * width * numbers + chunk)
    else:
        loss = (3 * _FP32 + (width if width < _FP32 else 0)) * numbers
    return loss + micro.num_masked * 5 * width * hidden
