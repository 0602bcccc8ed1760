"""Downstream scores: fine-tune an exported encoder with transformers, and score it as the field does."""
