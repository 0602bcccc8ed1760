"""Every private name of DeepSpeed and torch that this project touches, and why.

The rest of the project uses public names. The names here were read in DeepSpeed 0.19.8 and torch
2.11 to 2.13. Where a ZeRO optimizer keeps its tensors is in `zero_layout.py`, with its attributes.
What is replaced in the optimizer of ZeRO 1 and 2 is in `gradient_checks.py`.

    function                       private name                                   test
    use_gloo_collectives           deepspeed.comm.torch.build_shm_op              test_process_group
    limit_collective_timeouts      torch.distributed.distributed_c10d._world,     test_process_group
                                   _set_pg_timeout
    import_muon_uncompiled         deepspeed.runtime.compiler.compile             test_deepspeed_compat
    accept_with_zero               deepspeed.runtime.zero.utils.ZERO_SUPPORTED_   test_muon
                                   OPTIMIZERS
    is_torch_optimizer,            type and `overflow` of engine.optimizer        test_nonfinite_steps
    make_skippable
    set_batch                      engine._config's batch sizes,                  test_batch_size_warmup
                                   gradient_accumulation_steps of the optimizer
    restore_linear                 torch.nn.functional.linear, replaced by ZeRO 3 test_batch_invariance
    rebuild_stage3_weights         _reassign_or_swap_out_partitioned_parameters   test_optimizer_state
    set_step_count                 LRScheduler._step_count                        test_exact_resume
    record_nvtx_ranges             deepspeed.utils.nvtx.enable_nvtx               test_deepspeed_compat
    has_bf16_instructions          torch.ops.mkldnn._is_mkldnn_bf16_supported     test_run_info
"""

import datetime
import importlib
import sys
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist

_LINEAR = torch.nn.functional.linear
_MUON = [f"deepspeed.runtime.zero.muon.{name}" for name in ("original_muon", "muon_optimizer")]


def use_gloo_collectives() -> None:
    """Turn off DeepSpeed's shared-memory collectives on CPU; call it before joining a group.

    They leave 66 MB per process in /dev/shm, even after a clean exit, and compile for a minute at
    the first start. The losses are the same without them.
    """
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]


def limit_collective_timeouts(timeout_s: float) -> None:
    """Give every process group this timeout: DeepSpeed's own groups have torch's default."""
    timeout = datetime.timedelta(seconds=timeout_s)
    for group in dist.distributed_c10d._world.pg_map:
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon without compiling it, since it is never used.

    `deepspeed.initialize` imports it in any case. Compiling takes a second and 47 MB per process.
    """
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    compile_ = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        for name in _MUON:
            importlib.import_module(name)
    finally:
        compiler.compile = compile_


def accept_with_zero(optimizer_class: type) -> None:
    """Add an optimizer that we test with ZeRO to those that DeepSpeed starts without a warning."""
    known: Any = importlib.import_module("deepspeed.runtime.zero.utils").ZERO_SUPPORTED_OPTIMIZERS
    if optimizer_class not in known:
        known.append(optimizer_class)


def is_torch_optimizer(optimizer: Any) -> bool:
    """Whether DeepSpeed steps an unwrapped torch optimizer: at ZeRO stage 0 in fp32."""
    return isinstance(optimizer, torch.optim.Optimizer)


def make_skippable(optimizer: Any) -> None:
    """Let a torch optimizer skip the steps that its `overflow` marks, as DeepSpeed's wrappers do.

    DeepSpeed reads `overflow` after the step and then leaves the schedule where it is.
    """
    step = optimizer.step

    @wraps(step)
    def step_unless_skipped(*args: Any, **kwargs: Any) -> Any:
        return None if optimizer.overflow else step(*args, **kwargs)

    optimizer.overflow = False
    optimizer.step = step_unless_skipped


def set_batch(ds_engine: Any, micro_batch_size: int, accumulation: int) -> None:
    """Change the size of the batches from the next step on.

    DeepSpeed divides each loss by the accumulation, and updates the weights where it divides the
    number of micro-steps. Its own `set_train_batch_size` keeps the micro-batch, and leaves the
    number of micro-steps as it is.
    """
    config = ds_engine._config
    config.train_micro_batch_size_per_gpu = micro_batch_size
    config.gradient_accumulation_steps = accumulation
    config.train_batch_size = micro_batch_size * accumulation * ds_engine.dp_world_size
    if hasattr(ds_engine.optimizer, "gradient_accumulation_steps"):  # of ZeRO 1 to 3
        ds_engine.optimizer.gradient_accumulation_steps = accumulation
    ds_engine.micro_steps = ds_engine.global_steps * accumulation


def restore_linear() -> None:
    """Undo ZeRO 3's replacement of `torch.nn.functional.linear`, or the next run's losses differ."""
    torch.nn.functional.linear = _LINEAR


def rebuild_stage3_weights(optimizer: Any) -> None:
    """Compute the weights in use from the fp32 ones at ZeRO 3; all ranks must call it."""
    optimizer.checkpoint_event_prologue()
    for sub_group in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(sub_group)
    optimizer.checkpoint_event_epilogue()


def set_step_count(scheduler: Any, updates: int) -> None:
    """Set a torch scheduler's count: below 2, torch warns of a step before the optimizer's."""
    scheduler._step_count = updates


def record_nvtx_ranges(is_on: bool) -> None:
    """Turn DeepSpeed's NVTX ranges on or off; only a profiler has a use for them."""
    ranges: Any = importlib.import_module("deepspeed.utils.nvtx")
    ranges.enable_nvtx = is_on


def has_bf16_instructions() -> bool:
    """Whether oneDNN multiplies bf16 matrices on this CPU (from AVX-512 on), or torch emulates it."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
