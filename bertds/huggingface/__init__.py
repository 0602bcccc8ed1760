"""Conversion to and from Hugging Face formats: config, weights and tokenizer."""
