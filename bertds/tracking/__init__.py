"""Outputs of metrics and logs: metrics.jsonl, TensorBoard, MLflow, DeepSpeed monitors, console."""
