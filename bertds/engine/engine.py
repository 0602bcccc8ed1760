"""The engine: a model in DeepSpeed's hands, and what one optimizer step is.

The loss of a step is the mean over all masked tokens of the global batch, whatever the number of
ranks and micro-steps. DeepSpeed divides the loss of a micro-step by the accumulation and averages
gradients over the ranks. So each micro-step hands it

    sum(cross-entropy) * world_size * accumulation / N

where N is the number of masked tokens of the whole batch. N is all-reduced once before the first
backward pass and never read back to the host. Metrics are read one step late, so the host never
waits for the device.
"""

import gc
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from bertds.config.batch import BatchSplit
from bertds.config.case import Case
from bertds.config.schedule_lengths import ScheduleLengths
from bertds.data.packing import PackedBatch
from bertds.data.rng import derive_key
from bertds.distributed.failures import abandoned_compilations, translate_step_errors
from bertds.distributed.world import World
from bertds.engine.deepspeed_compat import (
    import_muon_uncompiled,
    is_torch_optimizer,
    limit_collective_timeouts,
    make_skippable,
    record_nvtx_ranges,
    restore_linear,
    set_batch,
)
from bertds.engine.deepspeed_config import (
    MONITORS,
    custom_lr_lambda,
    deepspeed_config,
    limit_bucket,
)
from bertds.engine.gradient_checks import fuse_gradient_checks
from bertds.engine.monitors import open_monitors
from bertds.engine.optimizer_state import refresh_weights, set_weights, undo_initial_step
from bertds.engine.own_optimizers import own_optimizer, place
from bertds.engine.weight_average import WeightAverage
from bertds.engine.zero_layout import check_supported
from bertds.metrics.accumulators import (
    SKIPS,
    STOPS,
    AsyncSums,
    ValidationSums,
    evaluate_packs,
    sums_of_pack,
    zero_sums,
)
from bertds.metrics.timing import StepTimer
from bertds.model.batch import to_device
from bertds.model.compiled import compile_parts
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import torch_scheduler
from bertds.optim.param_groups import no_decay, parameter_groups

logger = logging.getLogger("bertds")

_DROPOUT = 20  # the stream of the run's seed that dropout draws from


@dataclass(slots=True)
class Engine:
    """A model in training."""

    deepspeed: Any
    """DeepSpeed's engine."""
    world: World
    device: torch.device
    split: BatchSplit
    seed: int
    monitors: Mapping[str, Any] = field(default_factory=dict)
    """DeepSpeed's monitors by name, on rank 0 only."""
    average: WeightAverage | None = None
    """The moving average of the weights, if the case has one."""
    learning_rate: float | None = field(default=None, init=False)
    """The learning rate of the last step; None before this engine's first step."""
    grad_norm: float | Tensor | None = field(default=None, init=False)
    """The norm of the last step's gradient before clipping."""
    timer: StepTimer = field(init=False)
    """Seconds of forward, backward and update."""

    def __post_init__(self) -> None:
        self.timer = StepTimer(self.device)

    @classmethod
    def build(
        cls,
        case: Case,
        model: MaskedLanguageModel,
        world: World,
        device: torch.device,
        split: BatchSplit,
        lengths: ScheduleLengths,
    ) -> "Engine":
        """Initialize DeepSpeed with a model and the optimizer and schedule of its case.

        Raises:
            ValueError: The schedule does not fit the run.
        """
        for warning in abandoned_compilations() if world.local_rank == 0 else []:
            logger.warning("%s", warning)
        config = deepspeed_config(case, split, lengths, on_gpu=device.type == "cuda")
        limit_bucket(config, sum(parameter.numel() for parameter in model.parameters()))
        # Not opened by DeepSpeed: it would log by samples, and a failure would end the run.
        blocks = {name: config.pop(name) for name in MONITORS if name in config}
        import_muon_uncompiled()
        record_nvtx_ranges(False)
        if case.bertds.run.compile:
            compile_parts(model)
        lr_lambda = custom_lr_lambda(case, lengths)
        scheduler = None if lr_lambda is None else partial(torch_scheduler, factor=lr_lambda)
        own = own_optimizer(case)
        matrices = model.hidden_matrices() if case.deepspeed["optimizer"]["type"] == "Muon" else {}
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=own,
            model_parameters=parameter_groups(model, no_decay(case), matrices),
            config=config,
            dist_init_required=False,
            lr_scheduler=scheduler,
        )
        check_supported(engine)
        undo_initial_step(engine)
        if own is not None:
            place(engine, matrices, world, device)
        fuse_gradient_checks(engine.optimizer)
        if is_torch_optimizer(engine.optimizer):
            make_skippable(engine.optimizer)
        limit_collective_timeouts(case.bertds.run.collective_timeout_s)
        monitors = open_monitors(case, blocks) if world.is_main else {}
        decay = case.bertds.run.ema_decay
        average = None if decay is None else WeightAverage(engine, decay)
        return cls(engine, world, device, split, case.bertds.run.seed, monitors, average)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the fp32 weights by name; all ranks must call it.

        In bf16 and fp16 the fp32 masters are set exactly. DeepSpeed itself would make them from the
        rounded weights of the model. A moving average restarts from them.
        """
        set_weights(self.deepspeed, weights)
        refresh_weights(self.deepspeed)
        if self.average is not None:
            self.average.restart()

    def use_split(self, split: BatchSplit) -> None:
        """Set the size of the batches from the next step on."""
        if split != self.split:
            set_batch(self.deepspeed, split.micro_batch_size, split.accumulation)
            self.split = split

    @property
    def next_learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.deepspeed.optimizer.param_groups[0]["lr"])

    def train_step(self, packs: list[PackedBatch], step: int, *, stop: bool) -> AsyncSums:
        """Make one optimizer step; it is skipped on all ranks if one has a non-finite number.

        Args:
            packs: The micro-batches of this rank.
            step: Batches before this one; dropout depends on it.
            stop: Whether this rank asks all ranks to stop.

        Returns:
            The sums over all ranks.

        Raises:
            NonFiniteError: The loss scale of fp16 is at its minimum and gradients still overflow.
            OutOfMemoryError: This process has no memory left.
        """
        counts = [float(sum(pack.masked.size for pack in packs))]
        masked = self._all_reduce(torch.tensor(counts, dtype=torch.float32))
        scale = self.world.world_size * self.split.accumulation / masked[0]
        values = zero_sums(self.device)
        with translate_step_errors(self.world, self.split.micro_batch_size):
            for micro_step, pack in enumerate(packs):
                values += self._micro_step(pack, scale, step, micro_step)
        if self.average is not None and self.deepspeed.was_step_applied():
            self.average.update()
        # By `fill_`: an assignment would copy from the host, and wait for the device.
        values[STOPS].fill_(float(stop))
        values[SKIPS].fill_(float(not self.deepspeed.was_step_applied()))
        if self.grad_norm is None:
            self.grad_norm = self.deepspeed.get_global_grad_norm()
        return AsyncSums(self._all_reduce(values))

    def _micro_step(self, pack: PackedBatch, scale: Tensor, step: int, micro_step: int) -> Tensor:
        """Forward and backward of one micro-batch, and the update after the last; its sums."""
        # Derived from the position in the run alone, so no generator state needs to be saved.
        torch.manual_seed(derive_key(self.seed, _DROPOUT, step, self.world.rank, micro_step) >> 1)
        self.timer.start()
        loss, is_correct = self.deepspeed(to_device(self.device, pack))
        self.timer.mark("forward")
        # A non-finite loss makes every gradient non-finite; a finite one adds zero.
        self.deepspeed.backward(loss * (scale + 0 * loss.detach()))
        self.timer.mark("backward")
        if micro_step == self.split.accumulation - 1:
            self._before_update()
        self.deepspeed.step()
        self.timer.mark("update")
        return sums_of_pack(pack, loss.detach(), is_correct)

    def _before_update(self) -> None:
        self.learning_rate = self.next_learning_rate
        self.grad_norm = None
        if is_torch_optimizer(self.deepspeed.optimizer):  # then DeepSpeed computes no norm
            gradients = [p.grad for p in self.deepspeed.module.parameters() if p.grad is not None]
            # In float64: torch's sums of squares in float32 are 1e-5 off on a CPU.
            norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]
            self.grad_norm = torch.linalg.vector_norm(torch.stack(norms))
            self.deepspeed.optimizer.overflow = not math.isfinite(self.grad_norm)

    def skip_step(self) -> None:
        """Count a step without a batch, as DeepSpeed counts a step that it does not apply."""
        self.deepspeed.global_steps += 1
        self.deepspeed.skipped_steps += 1
        self.deepspeed.global_samples += self.deepspeed.train_batch_size()
        self.deepspeed.micro_steps += self.split.accumulation

    def evaluate(self, packs: Iterable[PackedBatch], mask_id: int) -> ValidationSums:
        """The sums over a validation set, of which each rank has a part; all must call it."""
        self.deepspeed.eval()
        values = evaluate_packs(self.deepspeed, packs, self.device, mask_id)
        self.deepspeed.train()
        return AsyncSums(self._all_reduce(values)).validation_sums()

    def logits(self, pack: PackedBatch) -> Tensor:
        """(M, V) logits, without gradient; all ranks must call it with the same packed batch."""
        captured: list[Tensor] = []
        head = self.deepspeed.module.head
        # Through the whole model, because its hooks gather the weights at ZeRO stage 3.
        hook = head.register_forward_hook(lambda _, __, logits: captured.append(logits))
        self.deepspeed.eval()
        with hook, torch.no_grad():
            self.deepspeed(to_device(self.device, pack))
        self.deepspeed.train()
        return captured[0]

    def _all_reduce(self, values: Tensor) -> Tensor:
        values = values.to(self.device, non_blocking=True)  # or the host would wait for the device
        if self.world.world_size > 1:
            dist.all_reduce(values)
        return values

    def close(self) -> None:
        """Free the memory of the model, so that the next run finds room."""
        self.deepspeed.destroy()
        self.deepspeed = None
        restore_linear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
