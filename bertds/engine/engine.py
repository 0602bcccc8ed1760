"""DeepSpeed and the process group; the only file that imports them.

It owns what a step is: the loss is the mean over all masked tokens of the global batch, whatever
the number of processes and micro-steps. DeepSpeed divides a micro-step's loss by the accumulation
and averages gradients over the processes, so each micro-step hands it

    sum(cross-entropy) * world_size * accumulation / N

with N, the masked tokens of the whole batch, all-reduced once before the first backward pass and
never read back to the host. Figures come back one step late, so the host never waits for the device.
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
from bertds.data.packing import PackedBatch
from bertds.data.rng import derive_key
from bertds.distributed.failures import abandoned_compilations, translate_step_errors
from bertds.distributed.world import World
from bertds.engine.deepspeed_compat import (
    forget_uncompiled_muon,
    import_muon_uncompiled,
    is_torch_optimizer,
    limit_collective_timeouts,
    make_skippable,
    restore_linear,
)
from bertds.engine.deepspeed_config import custom_lr_lambda, deepspeed_config
from bertds.engine.optimizer_state import refresh_weights, set_weights, undo_initial_step
from bertds.engine.process_group import Value
from bertds.engine.zero_layout import check_supported
from bertds.metrics.accumulators import (
    SKIPS,
    STOPS,
    AsyncSums,
    MetricSums,
    evaluate_packs,
    sums_of_pack,
    zero_sums,
)
from bertds.metrics.timing import StepTimer
from bertds.model.batch import to_device
from bertds.model.mlm import MaskedLanguageModel
from bertds.optim.lr_schedules import ScheduleLengths, torch_scheduler
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
    learning_rate: float | None = field(default=None, init=False)
    """The rate that the last step used, None before the first one of this engine."""
    grad_norm: float | Tensor | None = field(default=None, init=False)
    """Norm of the last step's gradient before clipping."""
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
        """Hand a model to DeepSpeed, with the optimizer and schedule of its case.

        Raises:
            ValueError: The schedule does not fit the run.
        """
        for sentence in abandoned_compilations() if world.local_rank == 0 else []:
            logger.warning("%s", sentence)
        config = deepspeed_config(case, split, lengths, on_gpu=device.type == "cuda")
        factor = custom_lr_lambda(case, lengths)
        ours = {} if factor is None else {"lr_scheduler": partial(torch_scheduler, factor=factor)}
        if config["optimizer"]["type"] == "Muon":
            forget_uncompiled_muon()
        else:
            import_muon_uncompiled()
        engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=parameter_groups(model, no_decay(case)),
            config=config,
            dist_init_required=False,
            **ours,
        )
        # DeepSpeed's own figures count samples where ours count steps; W&B drops what goes back.
        engine.monitor.enabled = False
        check_supported(engine)
        undo_initial_step(engine)
        if is_torch_optimizer(engine.optimizer):
            make_skippable(engine.optimizer)
        limit_collective_timeouts(case.bertds.run.collective_timeout_s)
        return cls(engine, world, device, split, case.bertds.run.seed)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model fp32 weights by name; all processes must call it.

        In 16 bits they are kept exact beside the rounded ones in use, which DeepSpeed does not do
        for the weights of the model that it is given.
        """
        set_weights(self.deepspeed, weights)
        refresh_weights(self.deepspeed)

    def train_step(self, packs: list[PackedBatch], step: int, *, stop: bool) -> AsyncSums:
        """One optimizer step; no process applies it if a loss or gradient of one is not finite.

        Args:
            packs: This process's micro-batches.
            step: Batches before this one; dropout depends on it.
            stop: Whether this process asks all to stop.

        Returns:
            The sums over all processes.

        Raises:
            NonFiniteError: The loss scale of fp16 cannot fall any further.
            OutOfMemoryError: This process has no memory left.
        """
        counts = [float(sum(pack.masked.size for pack in packs))]
        masked = self._all_reduce(torch.tensor(counts, dtype=torch.float32))
        scale = self.world.world_size * self.split.accumulation / masked[0]
        values = zero_sums(self.device)
        with translate_step_errors(self.world, self.split.micro_batch_size):
            for number, pack in enumerate(packs):
                values += self._micro_step(pack, scale, step, number)
        values[STOPS] = float(stop)
        values[SKIPS] = float(not self.deepspeed.was_step_applied())
        if self.grad_norm is None:
            self.grad_norm = self.deepspeed.get_global_grad_norm()
        return AsyncSums(self._all_reduce(values))

    def skip_step(self) -> None:
        """Count a step without a batch, as DeepSpeed counts one that it does not apply."""
        self.deepspeed.global_steps += 1
        self.deepspeed.skipped_steps += 1
        self.deepspeed.global_samples += self.deepspeed.train_batch_size()
        self.deepspeed.micro_steps += self.split.accumulation

    def _micro_step(self, pack: PackedBatch, scale: Tensor, step: int, number: int) -> Tensor:
        """One micro-batch, the last of which updates; its sums."""
        # A function of the place alone, so no generator's state needs to be kept.
        torch.manual_seed(derive_key(self.seed, _DROPOUT, step, self.world.rank, number) >> 1)
        self.timer.start()
        loss, correct = self.deepspeed(to_device(self.device, pack))
        self.timer.mark("forward")
        # A loss that is not finite makes every gradient so; one that is adds zero.
        self.deepspeed.backward(loss * (scale + 0 * loss.detach()))
        self.timer.mark("backward")
        if number == self.split.accumulation - 1:
            self._before_update()
        self.deepspeed.step()
        self.timer.mark("update")
        return sums_of_pack(pack, loss.detach(), correct)

    def _before_update(self) -> None:
        self.learning_rate = float(self.deepspeed.optimizer.param_groups[0]["lr"])
        self.grad_norm = None
        if is_torch_optimizer(self.deepspeed.optimizer):  # DeepSpeed knows no norm then
            gradients = [p.grad for p in self.deepspeed.module.parameters() if p.grad is not None]
            # In 64 bits: torch's own sums of squares in 32 are 1e-5 off on a CPU.
            norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]
            self.grad_norm = torch.linalg.vector_norm(torch.stack(norms))
            self.deepspeed.optimizer.overflow = not math.isfinite(self.grad_norm)

    def evaluate(self, packs: Iterable[PackedBatch]) -> MetricSums:
        """Sums over a validation set of which each process has a part."""
        self.deepspeed.eval()
        values = evaluate_packs(self.deepspeed, packs, self.device)
        self.deepspeed.train()
        return AsyncSums(self._all_reduce(values)).sums()

    def logits(self, pack: PackedBatch) -> Tensor:
        """(M, V) of a pack, without gradient; all processes must call it, with the same pack."""
        found: list[Tensor] = []
        head = self.deepspeed.module.head
        # Through the whole model, for its hooks are what gathers the weights under ZeRO-3.
        hook = head.register_forward_hook(lambda _, __, logits: found.append(logits))
        self.deepspeed.eval()
        with hook, torch.no_grad():
            self.deepspeed(to_device(self.device, pack))
        self.deepspeed.train()
        return found[0]

    def _all_reduce(self, values: Tensor) -> Tensor:
        values = values.to(self.device, non_blocking=True)  # else the host waits for the device
        if self.world.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in process 0; an empty list elsewhere."""
        gathered: list[Any] = [None] * self.world.world_size
        dist.gather_object(value, gathered if self.world.is_main else None)
        return gathered if self.world.is_main else []

    def broadcast_object(self, value: Value) -> Value:
        """The value of process 0, in all."""
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def close(self) -> None:
        """Free what the model took, so that the next arm finds room."""
        self.deepspeed.destroy()
        self.deepspeed = None
        restore_linear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
