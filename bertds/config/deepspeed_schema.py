"""The keys of DeepSpeed that a case file may hold, and the file as a whole.

DeepSpeed ignores a misspelled top-level key, and rejects a misspelled nested key only after all
processes have started. So every key is listed here by name. A key has a type here if this project
reads or restricts it, or if DeepSpeed does not check it. DeepSpeed's own models check the values of
the keys in `@deepspeed_checks`, before a run starts: see `bertds/engine/deepspeed_keys.py`.

The file's values are passed to DeepSpeed unchanged. The defaults here are DeepSpeed's own.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, create_model, model_validator

from bertds.config.optimizer_schema import Chosen, Rate
from bertds.config.schema import BertdsConfig, Block, Count

NotNegative = Annotated[int, Field(ge=0)]

# A number of elements. DeepSpeed's users write it as 5e8, which JSON reads as a float.
Size = Annotated[float, Field(ge=0, le=9e18, multiple_of=1)]
Dtype = Literal["fp32", "fp16", "bf16"]
AnyBlock = TypeVar("AnyBlock", bound=Block)


def deepspeed_checks(names: str) -> Callable[[type[AnyBlock]], type[AnyBlock]]:
    """Add keys, separated by spaces, whose values only DeepSpeed's models check."""
    fields: dict[str, Any] = dict.fromkeys(names.split(), (Any, None))

    def with_keys(block: type[AnyBlock]) -> type[AnyBlock]:
        return create_model(block.__name__, __base__=block, __doc__=block.__doc__, **fields)

    return with_keys


@deepspeed_checks("immediate_grad_update")
class Bf16(Block):
    """`bf16`: 16-bit weights with the range of fp32."""

    enabled: bool = False
    check_grad_overflow: bool = True
    """Skip steps with a non-finite gradient. false is rejected."""
    bf16_master_weights_and_grads: bool = False
    bf16_optimizer_states: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bf16_optimizer_states and not self.bf16_master_weights_and_grads:
            raise ValueError(
                "bf16_optimizer_states is true, which needs bf16_master_weights_and_grads true: "
                "change one of them"
            )
        if not self.check_grad_overflow:
            raise ValueError(
                "check_grad_overflow is false, so DeepSpeed would apply non-finite gradients: "
                "remove it"
            )
        return self


@deepspeed_checks("auto_cast consecutive_hysteresis")
class Fp16(Block):
    """`fp16`: 16-bit weights with a loss scale; on GPU only."""

    enabled: bool = False
    loss_scale: Rate = 0
    """Default: dynamic."""
    initial_scale_power: NotNegative = 16
    loss_scale_window: Count = 1000
    hysteresis: Count = 2
    min_loss_scale: Count = 1
    fp16_master_weights_and_grads: bool = False


DYNAMIC_SCALE = ("initial_scale_power", "loss_scale_window", "hysteresis")
"""Keys of `fp16` that describe a dynamic loss scale."""


@deepspeed_checks("pin_memory")
class Offload(Block):
    """Common keys of the two offload blocks."""

    device: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: str | None = None
    buffer_count: NotNegative = 5

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.device == "nvme" and self.nvme_path is None:
            raise ValueError('device is "nvme", but nvme_path is missing: add the directory')
        return self


@deepspeed_checks("buffer_size max_in_cpu")
class OffloadParam(Offload):
    """`zero_optimization.offload_param`: weights in host memory, at stage 3."""


@deepspeed_checks("pipeline_read pipeline_write fast_init cpuadam_cores_perc")
class OffloadOptimizer(Offload):
    """`zero_optimization.offload_optimizer`: optimizer states and update on the host."""

    buffer_count: NotNegative = 4
    ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Fraction of the states that is offloaded. Only 1 is accepted, because checkpoints would
    lack the rest."""
    super_offload: bool = False
    """Offloading for superchips. Only false is accepted."""

    @model_validator(mode="after")
    def _check_states(self) -> Self:
        if self.device == "nvme" or self.ratio < 1 or self.super_offload:
            raise ValueError(
                "device nvme, a ratio below 1, and super_offload keep optimizer states where "
                'checkpoints cannot include them: set device to "cpu" and ratio to 1, and remove '
                "super_offload"
            )
        return self


@deepspeed_checks(
    "contiguous_gradients use_multi_rank_bucket_allreduce allgather_partitions "
    "overlap_comm sub_group_size stage3_prefetch_bucket_size stage3_param_persistence_threshold "
    "stage3_model_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance "
    "stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential "
    "stage3_gather_16bit_weights_on_model_save round_robin_gradients parameter_alignment "
    "ignore_unused_parameters zero_quantized_weights zero_quantized_gradients"
)
class Zero(Block):
    """`zero_optimization`: what is sharded across ranks; sizes are numbers of elements."""

    stage: Annotated[int, Field(ge=0, le=3)] = 0
    """0: nothing; 1: optimizer states; 2: gradients as well; 3: weights as well."""
    reduce_scatter: bool = True
    reduce_bucket_size: Any = None
    """Number of gradients that are reduced at a time, in a bucket of this size. By default it is no
    larger than the number of parameters."""
    allgather_bucket_size: Size = 5e8
    offload_param: OffloadParam | None = None
    offload_optimizer: OffloadOptimizer | None = None
    stage3_module_granularity_threshold: Size = 0
    zero_hpz_partition_size: NotNegative = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.offload_param is not None and self.stage != 3:
            raise ValueError(
                f"offload_param needs stage 3, but stage is {self.stage}: change one of them"
            )
        if self.offload_optimizer is not None and self.stage == 0:
            raise ValueError(
                "offload_optimizer needs stage 1, 2 or 3, but stage is 0: change one of them"
            )
        if self.stage in (1, 2) and self.allgather_bucket_size % 2:
            raise ValueError(
                f"allgather_bucket_size is {self.allgather_bucket_size:.0f}, expected an even number"
            )
        return self


class DataTypes(Block):
    """`data_types`: the type that gradients are accumulated in (default: the model's)."""

    grad_accum_dtype: Dtype | None = None
    """Default: the type of the weights. With bf16 and accumulation, `fp32` is more exact; it
    needs stage 1 or above."""


class FlopsProfiler(Block):
    """`flops_profiler`: a profile of one step; it slows down all steps."""

    enabled: bool = False
    """Whether the block has an effect."""
    recompute_fwd_factor: Rate = 0.0
    """Extra forward passes to count for recomputed activations: 0, or 1 if all are recomputed."""
    profile_step: Count = 1
    """The step that is profiled."""
    module_depth: int = -1
    """Depth of modules in the output. -1 is the innermost."""
    top_modules: Count = 1
    """Number of modules in the summary."""
    detailed: bool = True
    """Print the profile of every module."""
    output_file: str | None = None
    """File for the output. Default: standard output."""


@deepspeed_checks("enabled prof_all verbose debug")
class CommsLogger(Block):
    """`comms_logger`: a log of every collective operation."""

    prof_ops: Annotated[tuple[str, ...], Field(strict=False)] = ()


@deepspeed_checks("enabled output_path job_name")
class FileMonitor(Block):
    """`tensorboard` and `csv_monitor`: DeepSpeed's own, in addition to the run directory's."""


@deepspeed_checks("enabled group team project")
class Wandb(Block):
    """`wandb`."""


@deepspeed_checks(
    "enabled project workspace experiment_name experiment_key online mode",
)
class Comet(Block):
    """`comet`."""

    samples_log_interval: Count = 100
    """Steps between two uploads. If not given: 1."""
    api_key: str | None = None
    """Rejected, because reports and TensorBoard show the case file: set `COMET_API_KEY`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.api_key is not None:
            raise ValueError(
                "api_key is given, which the report and TensorBoard would show: remove it and set "
                "the environment variable COMET_API_KEY"
            )
        return self


class Aio(Block):
    """`aio`: asynchronous reads and writes for NVMe offload."""

    block_size: Count = 1048576
    """Size of a request."""
    queue_depth: Count = 8
    """Requests in flight per thread."""
    intra_op_parallelism: Count = 1
    """Threads of one transfer."""
    single_submit: bool = False
    """Submit requests one by one instead of in batches."""
    overlap_events: bool = True
    """Submit new requests while others complete."""
    use_gds: bool = False
    """GPUDirect Storage. CUDA only."""


class DeepSpeedKeys(Block):
    """The top level of a case file without the `bertds` block."""

    train_batch_size: Count
    """Sequences of one optimizer step, over all ranks."""
    gradient_clipping: Rate
    """Maximum gradient norm; 0 disables clipping. Required: DeepSpeed's default is 1."""
    optimizer: Chosen
    """Optimizer type and parameters."""
    scheduler: Chosen | None = None
    """Learning-rate schedule. Default: a constant rate."""
    bf16: Bf16 = Bf16()
    fp16: Fp16 = Fp16()
    zero_optimization: Zero = Zero()
    zero_allow_untested_optimizer: bool = False
    """Accept optimizers that DeepSpeed has not tested with ZeRO."""
    zero_force_ds_cpu_optimizer: bool = True
    """With `offload_optimizer`: insist on DeepSpeed's CPU Adam."""
    data_types: DataTypes = DataTypes()
    communication_data_type: Dtype | None = None
    """Data type in which gradients are communicated. Default: the type of the weights."""
    prescale_gradients: bool = False
    """Divide gradients before they are summed over the ranks, against overflow."""
    gradient_predivide_factor: Annotated[float, Field(gt=0)] = 1.0
    """Divide gradients by this factor before they are summed over the ranks, and by the rest
    after."""
    steps_per_print: Count | None = None
    """Interval of DeepSpeed's own progress lines. Default: none."""
    wall_clock_breakdown: bool = False
    """Log DeepSpeed's timers. Every step then waits for the device."""
    memory_breakdown: bool = False
    """Log the memory at several points of a step."""
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


class CaseFile(DeepSpeedKeys):
    """A case file after its patches, without `arms`."""

    bertds: BertdsConfig
    """The keys of this project."""
