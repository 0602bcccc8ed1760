"""Values of a case file that are valid by themselves, but not together."""

import json
from collections.abc import Iterator

from bertds.config.deepspeed_schema import CaseFile
from bertds.config.optimizer_schema import (
    ONE_RATE,
    OUR_OWN,
    AdamParams,
    CosineAnnealingWarmRestarts,
    MuonParams,
    OptimizerParams,
)
from bertds.config.schema import BatchSizeWarmup, Block


def invalid_combinations(
    file: CaseFile, optimizer: OptimizerParams | None, scheduler: Block | None
) -> Iterator[str]:
    """Describe each combination of values that cannot be trained.

    Args:
        file: The whole file.
        optimizer: Its `optimizer.params`, if they are valid.
        scheduler: Its `scheduler.params`, if they are valid.
    """
    if (
        isinstance(scheduler, CosineAnnealingWarmRestarts)
        and optimizer is not None
        and scheduler.eta_min > optimizer.lr
    ):
        yield (
            f"scheduler.params.eta_min is {scheduler.eta_min}, above optimizer.params.lr "
            f"{optimizer.lr}: lower it"
        )
    yield from _origins(file)
    yield from _sizes(file)
    yield from _division(file)
    yield from _quantized_gradients(file)
    yield from _precision(file)
    yield from _reduced_states(file)
    yield from _optimizer_and_stage(file)
    if file.optimizer.type in OUR_OWN:
        yield from _our_own(file)
    if isinstance(optimizer, MuonParams):
        yield from _rates_of_muon(file, optimizer)
    yield from _compiled(file)
    yield from _flash_attention_3(file)
    if file.bertds.model.pad_vocab_to_multiple_of > 1:
        yield from _unused_ids(file, optimizer)


def _origins(file: CaseFile) -> Iterator[str]:
    run = file.bertds.run
    if run.init_from is not None and run.branch_from is not None:
        yield (
            f'run.init_from is "{run.init_from}" and run.branch_from is "{run.branch_from}", but a run '
            "begins with one set of weights: leave one of them out, or set it to null"
        )


def _sizes(file: CaseFile) -> Iterator[str]:
    data, model = file.bertds.data, file.bertds.model
    if data.seq_len > model.max_position_embeddings:
        yield (
            f"data.seq_len is {data.seq_len}, above model.max_position_embeddings "
            f"{model.max_position_embeddings}: raise the latter or lower the former"
        )
    batch, lanes = file.train_batch_size, data.lanes
    if lanes is not None and batch % lanes:
        yield (
            f"data.lanes is {lanes}, which does not divide train_batch_size {batch}: choose a "
            "divisor, or leave it out"
        )
    warmup = file.bertds.run.batch_size_warmup
    if warmup is not None:
        yield from _batch_size_warmup(warmup, batch, lanes)


def _batch_size_warmup(warmup: BatchSizeWarmup, batch: int, lanes: int | None) -> Iterator[str]:
    """The batch grows in equal steps, and every lane has an equal part of each size."""
    multiple = warmup.step_size
    if warmup.from_size >= batch:
        yield (
            f"run.batch_size_warmup.from_size is {warmup.from_size}, expected less than "
            f"train_batch_size {batch}: lower it, or leave the warm-up out"
        )
    elif batch % multiple:
        key = "from_size" if warmup.multiple_of is None else "multiple_of"
        yield (
            f"train_batch_size is {batch}, expected a multiple of run.batch_size_warmup.{key} "
            f"{multiple}: change one of them, or set multiple_of"
        )
    if lanes is not None and multiple % lanes:
        yield (
            f"data.lanes is {lanes}, which does not divide every batch of run.batch_size_warmup, "
            f"multiples of {multiple}: choose a divisor, or leave it out"
        )


def _division(file: CaseFile) -> Iterator[str]:
    """Stages 2 and 3 divide gradients after the reduction, except with full all-reduce."""
    zero = file.zero_optimization
    is_before = file.prescale_gradients or file.gradient_predivide_factor != 1
    if is_before and zero.stage in (2, 3) and zero.reduce_scatter:
        yield (
            "prescale_gradients and gradient_predivide_factor need zero_optimization.stage 0 or "
            "1, or zero_optimization.reduce_scatter false: leave them out or change one"
        )


def _quantized_gradients(file: CaseFile) -> Iterator[str]:
    zero = file.zero_optimization
    is_on = zero.stage == 3 and getattr(zero, "zero_quantized_gradients", None)
    if is_on and not zero.reduce_scatter:
        yield (
            "zero_optimization.zero_quantized_gradients is true, which needs "
            "zero_optimization.reduce_scatter true: change one of them"
        )


def _precision(file: CaseFile) -> Iterator[str]:
    if file.bf16.enabled and file.fp16.enabled:
        yield "bf16 and fp16 are both enabled: enable one of them"
    dtype = file.data_types.grad_accum_dtype
    if file.zero_optimization.stage == 0 and dtype not in (None, file.precision):
        yield (
            f'data_types.grad_accum_dtype is "{dtype}" with {file.precision} weights, which needs '
            "zero_optimization.stage 1, 2 or 3: change one of them"
        )


def _reduced_states(file: CaseFile) -> Iterator[str]:
    """Master weights in 16 bits need a stage, and an optimizer on the host or in bf16."""
    zero = file.zero_optimization
    offloads = zero.offload_optimizer is not None and zero.offload_optimizer.device == "cpu"
    reduced = {
        "bf16.bf16_master_weights_and_grads": file.bf16.bf16_master_weights_and_grads,
        "fp16.fp16_master_weights_and_grads": file.fp16.fp16_master_weights_and_grads,
    }
    for key in (key for key, is_on in reduced.items() if is_on):
        if zero.stage == 0:
            yield f"{key} is true, which needs zero_optimization.stage 1, 2 or 3: change one of them"
        elif not (offloads or file.bf16.bf16_optimizer_states):
            yield (
                f"{key} is true, which needs zero_optimization.offload_optimizer with device "
                '"cpu": change one of them'
            )


def _optimizer_and_stage(file: CaseFile) -> Iterator[str]:
    """fp16 needs a stage, Lamb needs none: one message where both are given."""
    stage, is_lamb = file.zero_optimization.stage, file.optimizer.type == "Lamb"
    if is_lamb and file.fp16.loss_scale:
        yield (
            f"fp16.loss_scale is {file.fp16.loss_scale:g}, but optimizer.type is Lamb, which "
            "DeepSpeed accepts only without a fixed loss scale: leave it out"
        )
    if file.fp16.enabled and is_lamb:
        yield (
            "fp16.enabled is true and optimizer.type is Lamb: fp16 needs zero_optimization.stage 1 "
            "or more, where DeepSpeed 0.19.8 scales the loss, but Lamb needs stage 0; use bf16 at "
            "stage 0, or AdamW at stage 1"
        )
    elif file.fp16.enabled and stage == 0:
        yield (
            "fp16.enabled is true at zero_optimization.stage 0, where DeepSpeed 0.19.8 never scales "
            "the loss: set the stage to 1, or use bf16"
        )
    elif is_lamb and stage > 0:
        yield (
            f"optimizer.type is Lamb at zero_optimization.stage {stage}, which splits the layers "
            "whose norms Lamb compares: set the stage to 0, or use AdamW"
        )


def _our_own(file: CaseFile) -> Iterator[str]:
    """Our own optimizers keep fp32 states on the device."""
    zero = file.zero_optimization
    blocks = {"offload_optimizer": zero.offload_optimizer, "offload_param": zero.offload_param}
    rejected = [
        f"zero_optimization.{key}.device is {json.dumps(block.device)}"
        for key, block in blocks.items()
        if block is not None and block.device != "none"
    ]
    if file.bf16.bf16_master_weights_and_grads:
        rejected.append("bf16.bf16_master_weights_and_grads is true")
    if file.fp16.fp16_master_weights_and_grads:
        rejected.append("fp16.fp16_master_weights_and_grads is true")
    for setting in rejected:
        yield (
            f"{setting}, but optimizer.type is {file.optimizer.type}, which works without offloading "
            "and with fp32 master weights only: leave it out, or use AdamW"
        )


def _rates_of_muon(file: CaseFile, optimizer: MuonParams) -> Iterator[str]:
    """Some schedulers of DeepSpeed give all groups one rate."""
    if (
        file.scheduler is not None
        and file.scheduler.type in ONE_RATE
        and optimizer.rate_of_matrices != optimizer.lr
    ):
        yield (
            f"optimizer.params.muon_lr is {optimizer.muon_lr} and scheduler.type is "
            f"{file.scheduler.type}, which gives all parameters the rate of optimizer.params.lr: use "
            "WarmupLinearLR, WarmupStableDecayLR or WarmupCosineLR, or leave muon_lr out"
        )


def _compiled(file: CaseFile) -> Iterator[str]:
    """A compiled layer has no hooks inside, and its kernels add in an order of their own."""
    if not file.bertds.run.compile:
        return
    if file.zero_optimization.stage == 3:
        yield (
            "run.compile is true at zero_optimization.stage 3, which gathers weights inside the layers: "
            "set the stage to 2 or less, or run.compile to false"
        )
    if file.bertds.run.deterministic:
        yield (
            "run.compile is true and run.deterministic is true, but the order in which compiled "
            "kernels add is not fixed: set one of them to false"
        )
    if file.flops_profiler.enabled:
        yield (
            "run.compile is true and flops_profiler.enabled is true, which counts inside the layers: "
            "set one of them to false"
        )


def _flash_attention_3(file: CaseFile) -> Iterator[str]:
    model, precision = file.bertds.model, file.precision
    if file.bertds.run.attention == "fa3" and not model.supports_varlen_attention(precision):
        yield (
            f'run.attention is "fa3" with {precision}, model.attention_probs_dropout_prob '
            f"{model.attention_probs_dropout_prob:g} and heads of {model.head_size}: it needs bf16 or "
            "fp16, no such dropout, and a head size that is a multiple of 8, at most 256; change "
            'them, or set it to "auto"'
        )


def _unused_ids(file: CaseFile, optimizer: OptimizerParams | None) -> Iterator[str]:
    """The output bias of ids beyond the tokenizer is large, so nothing may use or change it."""
    padding = f"model.pad_vocab_to_multiple_of is {file.bertds.model.pad_vocab_to_multiple_of}"
    if file.optimizer.type == "Lamb":
        yield (
            f"{padding} and optimizer.type is Lamb, which would compare the norm of the output bias "
            "with that of unused ids: leave the padding out, or use AdamW"
        )
    if file.optimizer.type == "StableAdamW":
        yield (
            f"{padding} and optimizer.type is StableAdamW, whose mean over the output bias would include "
            "the unused ids: leave the padding out, or use AdamW"
        )
    no_decay = file.bertds.run.no_decay
    is_coupled = isinstance(optimizer, AdamParams) and not optimizer.adam_w_mode
    has_decay = optimizer is not None and optimizer.weight_decay > 0 and not is_coupled
    if no_decay is not None and "bias" not in no_decay and has_decay:
        yield (
            f"{padding} and run.no_decay is {list(no_decay)}: weight decay would make the unused ids "
            'likely; add "bias", or leave the padding out'
        )
