"""DeepSpeed's keys that a case file may not contain, with what to do instead."""

_REMOVED = "DeepSpeed 0.19 has removed it, delete it"
_NOT_SUPPORTED = "bertds does not support it, delete it"
_OWN_CHECKPOINTS = "bertds has its own checkpoint format, delete it"

UNSUPPORTED_KEYS: dict[str, str] = {
    **dict.fromkeys(
        (
            "compression_training",
            "curriculum_learning",
            "eigenvalue",
            "graph_harvesting",
            "nebula",
            "progressive_layer_drop",
            "quantize_training",
            "sparse_attention",
            "sparse_gradients",
        ),
        _REMOVED,
    ),
    **dict.fromkeys(
        (
            "autotuning",
            "compile",
            "data_efficiency",
            "disable_allgather",
            "disable_python_gc",
            "dump_state",
            "expert_parallel",
            "hybrid_engine",
            "log_level",
            "pipeline",
            "seq_parallel_communication_data_type",
            "sequence_parallel_size",
            "tensor_parallel",
            "use_data_before_expert_parallelism",
            "weight_quantization",
        ),
        _NOT_SUPPORTED,
    ),
    **dict.fromkeys(
        (
            "gradient_accumulation_steps",
            "managed_gradient_accumulation",
            "train_micro_batch_size_per_gpu",
        ),
        "it is derived from run.max_micro_batch_size, delete it",
    ),
    **dict.fromkeys(
        ("checkpoint", "datastates_ckpt"),
        _OWN_CHECKPOINTS,
    ),
    "activation_checkpointing": "set model.gradient_checkpointing instead",
    "amp": "DeepSpeed 0.19 has removed it, use bf16",
    "bfloat16": "rename it to bf16",
    "dataloader_drop_last": "the last incomplete batch of an epoch is always dropped, delete it",
    "elasticity": "DeepSpeed 0.19 has removed it; a run resumes with any world size; delete it",
    "gradient_allreduce_op": "the loss is already a mean over the global batch, delete it",
    "timers": "throughput is measured without stopping the device, delete it",
    "torch_autocast": "use bf16",
    "vocabulary_size": "it is read from the shards' index, delete it",
}
"""Top-level keys that DeepSpeed reads."""

_ZERO = "zero_optimization"
_ONE_BIT = "it belongs to the 1-bit optimizers, which DeepSpeed 0.19 has removed, delete it"

NESTED_AND_LEGACY_KEYS: dict[str, str] = {
    "allgather_size": f"set {_ZERO}.allgather_bucket_size instead",
    "allreduce_always_fp32": 'set communication_data_type to "fp32" instead',
    "bf16.loss_scale": "bf16 needs no loss scale, delete it",
    "fp32_allreduce": 'set communication_data_type to "fp32" instead',
    "optimizer.legacy_fusion": _NOT_SUPPORTED,
    "optimizer.params.comm_backend_name": _ONE_BIT,
    "optimizer.params.cuda_aware": _ONE_BIT,
    "optimizer.params.freeze_step": _ONE_BIT,
    "optimizer.params.max_grad_norm": "set gradient_clipping instead",
    "scheduler.params.last_batch_iteration": "a run resumes by itself, delete it",
    **{
        f"{_ZERO}.{name}": advice
        for name, advice in {
            "compute_grad_norm": "the gradient norm is always logged, delete it",
            "cpu_offload": f'set {_ZERO}.offload_optimizer to {{"device": "cpu"}} instead',
            "cpu_offload_param": f'set {_ZERO}.offload_param to {{"device": "cpu"}} instead',
            "cpu_offload_params": f'set {_ZERO}.offload_param to {{"device": "cpu"}} instead',
            "cpu_offload_use_pin_memory": (
                f"set pin_memory in {_ZERO}.offload_optimizer or {_ZERO}.offload_param instead"
            ),
            "elastic_checkpoint": "a run resumes with any world size, delete it",
            "enable_sanity_checks": _NOT_SUPPORTED,
            "leaf_module": _NOT_SUPPORTED,
            "legacy_stage1": _REMOVED,
            "load_from_fp32_weights": _OWN_CHECKPOINTS,
            "log_trace_cache_warnings": _NOT_SUPPORTED,
            "memory_efficient_linear": _NOT_SUPPORTED,
            "mics_hierarchical_params_gather": _REMOVED,
            "mics_shard_size": _REMOVED,
            "override_module_apply": _NOT_SUPPORTED,
            "pipeline_loading_checkpoint": _OWN_CHECKPOINTS,
            "save_muon_momentum_buffer_in_memory": _NOT_SUPPORTED,
            "stage3_gather_fp16_weights_on_model_save": (
                "checkpoints and exports have all weights at every stage, delete it"
            ),
            "zenflow": _NOT_SUPPORTED,
            "zero_quantized_nontrainable_weights": "all weights are trained, delete it",
            "zeropp_loco_param": _REMOVED,
        }.items()
    },
}
"""Keys inside blocks, by their path, and keys of older versions of DeepSpeed."""


def remedy(key: str) -> str | None:
    """Return what to do instead of setting a key, by its path; None if it may be set."""
    return UNSUPPORTED_KEYS.get(key) or NESTED_AND_LEGACY_KEYS.get(key)
