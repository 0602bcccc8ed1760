"""Every key of DeepSpeed's that a case file may hold, and the file as a whole.

DeepSpeed ignores a misspelt top-level key, and says that a nested one is misspelt only after all
processes have started. Here each key is known with its type. What a file gives is passed on as it
stands; the defaults are DeepSpeed's own, repeated for the reader. A test compares these tables with
the installed DeepSpeed.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bertds.config.optimizer_schema import Chosen, Rate
from bertds.config.schema import BertdsConfig, Block, Count

NotNegative = Annotated[int, Field(ge=0)]


# DeepSpeed's users write sizes as 5e8, which JSON reads as a float.
Size = Annotated[float, Field(ge=0, le=9e18, multiple_of=1)]
Dtype = Literal["fp32", "fp16", "bf16"]


class Bf16(Block):
    """`bf16`: 16-bit weights with the range of fp32."""

    enabled: bool = False
    immediate_grad_update: bool = False
    check_grad_overflow: bool = True
    bf16_master_weights_and_grads: bool = False
    bf16_optimizer_states: bool = False


class Fp16(Block):
    """`fp16`: 16-bit weights with a loss scale; on GPU only."""

    enabled: bool = False
    auto_cast: bool = False
    loss_scale: Rate = 0
    """0: found while training."""
    initial_scale_power: NotNegative = 16
    loss_scale_window: Count = 1000
    hysteresis: Count = 2
    consecutive_hysteresis: bool = False
    min_loss_scale: Count = 1
    fp16_master_weights_and_grads: bool = False


class Offload(Block):
    """What both offload blocks share."""

    device: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: str | None = None
    pin_memory: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.device == "nvme" and self.nvme_path is None:
            raise ValueError('device is "nvme" without nvme_path: give the directory')
        return self


class OffloadParam(Offload):
    """`zero_optimization.offload_param`: weights in the host's memory, with stage 3."""

    buffer_count: NotNegative = 5
    buffer_size: Size = 1e8
    max_in_cpu: Size = 1e9


class OffloadOptimizer(Offload):
    """`zero_optimization.offload_optimizer`: optimizer state and update on the host."""

    buffer_count: NotNegative = 4
    pipeline_read: bool = False
    pipeline_write: bool = False
    fast_init: bool = False
    ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    super_offload: bool = False
    cpuadam_cores_perc: Annotated[float, Field(ge=0, le=1)] = 0.8

    @model_validator(mode="after")
    def _check_states(self) -> Self:
        if self.device == "nvme" or self.ratio < 1 or self.super_offload:
            raise ValueError(
                "device nvme, a ratio below 1 and super_offload keep optimizer states where no "
                'checkpoint reaches them: set device to "cpu", ratio to 1, and leave super_offload out'
            )
        return self


class Zero(Block):
    """`zero_optimization`: what is divided among the processes; sizes in numbers of elements."""

    stage: Annotated[int, Field(ge=0, le=3)] = 0
    """0: nothing; 1: optimizer states; 2: gradients as well; 3: weights as well."""
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    reduce_bucket_size: Annotated[Size, Field(gt=0)] = 5e8
    use_multi_rank_bucket_allreduce: bool = True
    allgather_partitions: bool = True
    allgather_bucket_size: Size = 5e8
    overlap_comm: bool | None = None
    """Default: with stage 3."""
    offload_param: OffloadParam | None = None
    offload_optimizer: OffloadOptimizer | None = None
    sub_group_size: Size = 1e9
    stage3_prefetch_bucket_size: Size = 5e7
    stage3_param_persistence_threshold: Size = 1e5
    stage3_model_persistence_threshold: Size = 9223372036854775807
    stage3_max_live_parameters: Size = 1e9
    stage3_max_reuse_distance: Size = 1e9
    stage3_module_granularity_threshold: Size = 0
    stage3_use_all_reduce_for_fetch_params: bool = False
    stage3_allgather_sequential: bool = False
    stage3_gather_16bit_weights_on_model_save: bool = False
    round_robin_gradients: bool = False
    parameter_alignment: bool = False
    ignore_unused_parameters: bool = True
    zero_hpz_partition_size: NotNegative = 1
    zero_quantized_weights: bool = False
    zero_quantized_gradients: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.offload_param is not None and self.stage != 3:
            raise ValueError(f"offload_param needs stage 3, stage is {self.stage}: change one")
        if self.offload_optimizer is not None and self.stage == 0:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3, stage is 0: change one")
        if self.stage in (1, 2) and self.allgather_bucket_size % 2:
            raise ValueError(
                f"allgather_bucket_size is {self.allgather_bucket_size:.0f}, wanted an even number"
            )
        return self


class DataTypes(Block):
    """`data_types`: the type that gradients are added up in (default: the model's)."""

    grad_accum_dtype: Dtype | None = None


class FlopsProfiler(Block):
    """`flops_profiler`: one step taken apart; it slows all of them down."""

    enabled: bool = False
    recompute_fwd_factor: Rate = 0.0
    profile_step: Count = 1
    module_depth: int = -1
    top_modules: Count = 1
    detailed: bool = True
    output_file: str | None = None


class CommsLogger(Block):
    """`comms_logger`: each collective, logged."""

    enabled: bool = False
    prof_all: bool = True
    prof_ops: Annotated[tuple[str, ...], Field(strict=False)] = ()
    verbose: bool = False
    debug: bool = False


class FileMonitor(Block):
    """`tensorboard` and `csv_monitor`: DeepSpeed's own, besides the run directory's."""

    enabled: bool = False
    output_path: str = ""
    job_name: str = "DeepSpeedJobName"


class Wandb(Block):
    """`wandb`."""

    enabled: bool = False
    group: str | None = None
    team: str | None = None
    project: str = "deepspeed"


class Comet(Block):
    """`comet`."""

    enabled: bool = False
    samples_log_interval: Count = 100
    project: str | None = None
    workspace: str | None = None
    api_key: str | None = None
    experiment_name: str | None = None
    experiment_key: str | None = None
    online: bool | None = None
    mode: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.api_key is not None:
            raise ValueError(
                "api_key is given, which the record and TensorBoard would show: leave it out and "
                "set the environment variable COMET_API_KEY"
            )
        return self


class Aio(Block):
    """`aio`: reads and writes of NVMe offload."""

    block_size: Count = 1048576
    queue_depth: Count = 8
    intra_op_parallelism: Count = 1
    single_submit: bool = False
    overlap_events: bool = True
    use_gds: bool = False


class DeepSpeedKeys(Block):
    """The top level of a case file without our block."""

    train_batch_size: Count
    """Sequences of one optimizer update, over all processes."""
    gradient_clipping: Rate
    """Largest norm of the gradient; 0 is off. Must be given: DeepSpeed's hidden default is 1."""
    optimizer: Chosen
    scheduler: Chosen | None = None
    bf16: Bf16 = Bf16()
    fp16: Fp16 = Fp16()
    zero_optimization: Zero = Zero()
    zero_allow_untested_optimizer: bool = False
    zero_force_ds_cpu_optimizer: bool = True
    data_types: DataTypes = DataTypes()
    communication_data_type: Dtype | None = None
    prescale_gradients: bool = False
    gradient_predivide_factor: Annotated[float, Field(gt=0)] = 1.0
    steps_per_print: Count | None = None
    wall_clock_breakdown: bool = False
    memory_breakdown: bool = False
    flops_profiler: FlopsProfiler = FlopsProfiler()
    comms_logger: CommsLogger = CommsLogger()
    tensorboard: FileMonitor = FileMonitor()
    csv_monitor: FileMonitor = FileMonitor()
    wandb: Wandb = Wandb()
    comet: Comet = Comet()
    aio: Aio = Aio()

    @property
    def precision(self) -> Dtype:
        """`bf16`, `fp16` or `fp32`."""
        if self.bf16.enabled:
            return "bf16"
        return "fp16" if self.fp16.enabled else "fp32"

    @property
    def _offloads(self) -> bool:
        offload = self.zero_optimization.offload_optimizer
        return offload is not None and offload.device == "cpu"

    @model_validator(mode="after")
    def _check_division(self) -> Self:
        """Stages 2 and 3 divide gradients after adding them up, unless they add up all of them."""
        zero = self.zero_optimization
        is_before = self.prescale_gradients or self.gradient_predivide_factor != 1
        if is_before and zero.stage in (2, 3) and zero.reduce_scatter:
            raise ValueError(
                "prescale_gradients and gradient_predivide_factor need zero_optimization.stage 0 or "
                "1, or zero_optimization.reduce_scatter false: leave them out or change one"
            )
        return self

    @model_validator(mode="after")
    def _check_precision(self) -> Self:
        if self.bf16.enabled and self.fp16.enabled:
            raise ValueError("bf16 and fp16 are both enabled: enable one")
        reduced = {
            "bf16.bf16_master_weights_and_grads": self.bf16.bf16_master_weights_and_grads,
            "fp16.fp16_master_weights_and_grads": self.fp16.fp16_master_weights_and_grads,
        }
        for key, is_on in reduced.items():
            if is_on and self.zero_optimization.stage == 0:
                raise ValueError(f"{key} needs zero_optimization.stage 1, 2 or 3: change one")
            if is_on and not (self._offloads or self.bf16.bf16_optimizer_states):
                raise ValueError(
                    f'{key} needs zero_optimization.offload_optimizer with device "cpu": change one'
                )
        if self.bf16.bf16_optimizer_states and not self.bf16.bf16_master_weights_and_grads:
            raise ValueError(
                "bf16.bf16_optimizer_states needs bf16.bf16_master_weights_and_grads: change one"
            )
        if not self.bf16.check_grad_overflow:
            raise ValueError(
                "bf16.check_grad_overflow is false, so that DeepSpeed would apply gradients that "
                "are not finite: leave it out"
            )
        added = self.data_types.grad_accum_dtype
        if self.zero_optimization.stage == 0 and added not in (None, self.precision):
            raise ValueError(
                f'data_types.grad_accum_dtype is "{added}" with {self.precision} weights, which '
                "needs zero_optimization.stage 1, 2 or 3: change one"
            )
        return self


class CaseFile(DeepSpeedKeys):
    """A case file after its patches, without `arms`."""

    bertds: BertdsConfig
