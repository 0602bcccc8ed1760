"""Where metrics go: metrics.jsonl, TensorBoard, MLflow, DeepSpeed's monitors, the console."""
