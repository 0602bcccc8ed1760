"""DeepSpeed and the process group; the only file that imports them.

It owns what a step is: the loss is the mean over all masked tokens of the global batch, whatever
the number of processes and micro-steps. DeepSpeed divides a micro-step's loss by the accumulation
and averages gradients over the processes, so each micro-step hands it

    sum(cross-entropy) * world_size * accumulation / N

with N, the masked tokens of the whole batch, all-reduced once before the first backward pass and
never read back to the host. Figures come back one step late, so the host never waits for the device.
"""

import atexit
import datetime
import gc
import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, TypeVar

import deepspeed
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # later, its defaults would hold the group for ever
from torch import Tensor

from bertds.case.file import BatchSplit, Case
from bertds.clock import StepClock
from bertds.data.keyed_hash import key_of
from bertds.data.packing import Pack
from bertds.deepspeed_config import deepspeed_config, no_decay, own_factor
from bertds.explained import abandoned_compilations, naming_a_steps_faults, naming_the_meeting
from bertds.forward import SKIPS, STOPS, forward_sums, no_sums, sums_of, tensors_on
from bertds.launcher import rendezvous
from bertds.model.mlm import MaskedLanguageModel, parameter_groups
from bertds.muon import import_muon
from bertds.schedule import Lengths, torch_scheduler
from bertds.state.zero_layout import check_supported
from bertds.state.zero_state import refresh_weights, set_weights, undo_initial_step
from bertds.sums import Reading, Sums
from bertds.watchdog import Watchdog
from bertds.world import World

logger = logging.getLogger("bertds")
Value = TypeVar("Value")
_LINEAR = torch.nn.functional.linear
_DROPOUT = 20  # the stream of the run's seed that dropout draws from


def start(world: World, timeout_s: float) -> torch.device:
    """Join the process group; on CPU the cores are divided among the machine's processes.

    Args:
        world: This process.
        timeout_s: Seconds after which a collective fails.

    Returns:
        The device to compute on.

    Raises:
        PortError: The port to meet at is taken.
        PeerLostError: Not all processes came.
    """
    on_gpu = torch.cuda.is_available()
    place = rendezvous(world)
    if on_gpu and torch.cuda.device_count() == 1:
        place["LOCAL_RANK"] = "0"  # srun --gpus-per-task shows each process its own card only
    device = torch.device("cuda", int(place["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        # Before the first matrix product: run.deterministic needs it, and it costs nothing else.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)
    else:
        _prepare_cpu(world)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    os.environ.update(place)
    address = "{MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ)
    # The meeting's own time-out does not hold where the other side is there and does not answer.
    watchdog = Watchdog(world, timeout_s, lambda _: None)
    with watchdog as dog, naming_the_meeting(world, address, timeout_s):
        dog.sees(f"meeting the others at {address}")
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo",
            auto_mpi_discovery=False,
            timeout=datetime.timedelta(seconds=timeout_s),
            verbose=False,
        )
    return device


def _prepare_cpu(world: World) -> None:
    # DeepSpeed's shared-memory collectives leave 66 MB a process behind in /dev/shm and compile for
    # a minute at the first start; gloo does without.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(max(1, cores // world.local_size))


def everywhere(value: Value) -> list[Value]:
    """The values of all processes by rank, in all; all must call it."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def stop() -> None:
    """Leave the process group, all processes together."""
    dist.barrier()
    _leave()


def stop_at_exit() -> None:
    """Leave the process group when the interpreter ends, for programs that may train once more.

    Only where all went well: a group with a lost process may hang on leaving it.
    """
    atexit.register(_leave)


def _leave() -> None:
    """Leave the group and end gloo's threads.

    A thread of gloo's that lets go of a tensor while the interpreter ends aborts the process
    (pytorch/pytorch#38228), and a group's threads end with the last reference to the group:
    `torch.distributed` drops its own, DeepSpeed's function DeepSpeed's, `gc` those of engines.
    """
    if dist.is_initialized():
        deepspeed.comm.destroy_process_group()
        gc.collect()


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
    clock: StepClock = field(init=False)
    """Seconds of forward, backward and update."""
    _monitors_work: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self.clock = StepClock(self.device)

    @classmethod
    def build(
        cls,
        case: Case,
        model: MaskedLanguageModel,
        world: World,
        device: torch.device,
        split: BatchSplit,
        lengths: Lengths,
    ) -> "Engine":
        """Hand a model to DeepSpeed, with the optimizer and schedule of its case.

        Raises:
            ValueError: The schedule does not fit the run.
        """
        for sentence in abandoned_compilations() if world.local_rank == 0 else []:
            logger.warning("%s", sentence)
        config = deepspeed_config(case, split, lengths, on_gpu=device.type == "cuda")
        factor = own_factor(case, lengths)
        ours = {} if factor is None else {"lr_scheduler": partial(torch_scheduler, factor=factor)}
        import_muon(is_used=config["optimizer"]["type"] == "Muon")
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
        if _is_plain(engine.optimizer):
            _make_skippable(engine.optimizer)
        _limit_waiting(case.bertds.run.collective_timeout_s)
        return cls(engine, world, device, split, case.bertds.run.seed)

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model fp32 weights by name; all processes must call it.

        In 16 bits they are kept exact beside the rounded ones in use, which DeepSpeed does not do
        for the weights of the model that it is given.
        """
        set_weights(self.deepspeed, weights)
        refresh_weights(self.deepspeed)

    def train_step(self, packs: list[Pack], step: int, *, stop: bool) -> Reading:
        """One optimizer step; no process applies it if a loss or gradient of one is not finite.

        Args:
            packs: This process's micro-batches.
            step: Batches before this one; dropout depends on it.
            stop: Whether this process asks all to stop.

        Returns:
            The sums over all processes.

        Raises:
            NumbersError: The loss scale of fp16 cannot fall any further.
            MemoryFullError: This process has no memory left.
        """
        counts = [float(sum(pack.masked.size for pack in packs))]
        masked = self._all_reduce(torch.tensor(counts, dtype=torch.float32))
        scale = self.world.world_size * self.split.accumulation / masked[0]
        values = no_sums(self.device)
        with naming_a_steps_faults(self.world, self.split.micro_batch_size):
            for number, pack in enumerate(packs):
                values += self._micro_step(pack, scale, step, number)
        values[STOPS] = float(stop)
        values[SKIPS] = float(not self.deepspeed.was_step_applied())
        if self.grad_norm is None:
            self.grad_norm = self.deepspeed.get_global_grad_norm()
        return Reading(self._all_reduce(values))

    def skip_step(self) -> None:
        """Count a step without a batch, as DeepSpeed counts one that it does not apply."""
        self.deepspeed.global_steps += 1
        self.deepspeed.skipped_steps += 1
        self.deepspeed.global_samples += self.deepspeed.train_batch_size()
        self.deepspeed.micro_steps += self.split.accumulation

    def _micro_step(self, pack: Pack, scale: Tensor, step: int, number: int) -> Tensor:
        """One micro-batch, the last of which updates; its sums."""
        # A function of the place alone, so no generator's state needs to be kept.
        torch.manual_seed(key_of(self.seed, _DROPOUT, step, self.world.rank, number) >> 1)
        self.clock.start()
        loss, correct = self.deepspeed(tensors_on(self.device, pack))
        self.clock.ends("forward")
        # A loss that is not finite makes every gradient so; one that is adds zero.
        self.deepspeed.backward(loss * (scale + 0 * loss.detach()))
        self.clock.ends("backward")
        if number == self.split.accumulation - 1:
            self._before_update()
        self.deepspeed.step()
        self.clock.ends("update")
        return sums_of(pack, loss.detach(), correct)

    def _before_update(self) -> None:
        self.learning_rate = float(self.deepspeed.optimizer.param_groups[0]["lr"])
        self.grad_norm = None
        if _is_plain(self.deepspeed.optimizer):  # DeepSpeed knows no norm then
            gradients = [p.grad for p in self.deepspeed.module.parameters() if p.grad is not None]
            # In 64 bits: torch's own sums of squares in 32 are 1e-5 off on a CPU.
            norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients]
            self.grad_norm = torch.linalg.vector_norm(torch.stack(norms))
            self.deepspeed.optimizer.overflow = not math.isfinite(self.grad_norm)

    def evaluate(self, packs: Iterable[Pack]) -> Sums:
        """Sums over a validation set of which each process has a part."""
        self.deepspeed.eval()
        values = forward_sums(self.deepspeed, packs, self.device)
        self.deepspeed.train()
        return Reading(self._all_reduce(values)).sums()

    def logits(self, pack: Pack) -> Tensor:
        """(M, V) of a pack, without gradient; all processes must call it, with the same pack."""
        found: list[Tensor] = []
        head = self.deepspeed.module.head
        # Through the whole model, for its hooks are what gathers the weights under ZeRO-3.
        hook = head.register_forward_hook(lambda _, __, logits: found.append(logits))
        self.deepspeed.eval()
        with hook, torch.no_grad():
            self.deepspeed(tensors_on(self.device, pack))
        self.deepspeed.train()
        return found[0]

    def report(self, figures: Mapping[str, float], step: int) -> None:
        """Hand figures to the monitors that the case file asks for, W&B, Comet, CSV, while they work."""
        if not self._monitors_work:
            return
        try:
            self.deepspeed.monitor.write_events([(*one, step) for one in figures.items()])
        except Exception as error:  # noqa: BLE001 - of their own, or a full disk: no figure is worth a run
            self._monitors_work = False
            logger.warning(
                "DeepSpeed's monitors get no figures from step %d on, since they failed (%s: %s); "
                "training goes on, and metrics.jsonl has all",
                *(step, type(error).__name__, error),
            )

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
        if self.deepspeed.monitor.wandb_monitor is not None:
            sys.modules["wandb"].finish()  # else the next arm's figures go into this arm's run
        self.deepspeed.destroy()
        self.deepspeed = None
        # ZeRO 3 replaces it for good, and the next arm's losses would differ.
        torch.nn.functional.linear = _LINEAR
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def _is_plain(optimizer: Any) -> bool:
    """Whether DeepSpeed steps torch's own kind of optimizer: at ZeRO 0 in fp32."""
    return isinstance(optimizer, torch.optim.Optimizer)


def _make_skippable(optimizer: Any) -> None:
    """Let an optimizer leave out the steps that its `overflow` marks, as DeepSpeed's own do.

    DeepSpeed reads that mark after the step, and then leaves the schedule where it is.
    """
    step = optimizer.step

    @wraps(step)
    def step_unless_skipped(*args: Any, **kwargs: Any) -> Any:
        return None if optimizer.overflow else step(*args, **kwargs)

    optimizer.overflow = False
    optimizer.step = step_unless_skipped


def _limit_waiting(timeout_s: float) -> None:
    """DeepSpeed's own groups ignore the time-out that init_distributed was given."""
    timeout = datetime.timedelta(seconds=timeout_s)
    for group in dist.distributed_c10d._world.pg_map:
        dist.distributed_c10d._set_pg_timeout(timeout, group)
