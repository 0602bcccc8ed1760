"""Inference with a trained model: evaluate, fill masks, embed, export."""
