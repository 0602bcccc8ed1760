"""DeepSpeed's top-level keys that a case file may not contain, with what to do instead."""

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
        "DeepSpeed 0.19 has removed it, delete it",
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
        "bertds does not support it, delete it",
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
        "bertds has its own checkpoint format, delete it",
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
