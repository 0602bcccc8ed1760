"""Hugging Face formats: config, weights and tokenizer, both ways."""
