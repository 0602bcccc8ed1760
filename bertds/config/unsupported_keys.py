"""DeepSpeed's top-level keys that a case file may not set, with what to do instead."""

REFUSED: dict[str, str] = {
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
        "nothing here uses it, delete it",
    ),
    **dict.fromkeys(
        (
            "gradient_accumulation_steps",
            "managed_gradient_accumulation",
            "train_micro_batch_size_per_gpu",
        ),
        "it follows from run.max_micro_batch_size, delete it",
    ),
    **dict.fromkeys(
        ("checkpoint", "datastates_ckpt"),
        "checkpoints are written in a form of our own, delete it",
    ),
    "activation_checkpointing": "set model.gradient_checkpointing instead",
    "amp": "DeepSpeed 0.19 has removed it, use bf16",
    "bfloat16": "it is spelt bf16 now",
    "dataloader_drop_last": "an epoch's incomplete batch is always left out, delete it",
    "elasticity": "DeepSpeed 0.19 has removed it, any world size resumes here, delete it",
    "gradient_allreduce_op": "the loss is a mean over the global batch already, delete it",
    "timers": "tokens/s is measured without stopping the device, delete it",
    "torch_autocast": "use bf16",
    "vocabulary_size": "it comes from the shards' index, delete it",
}
