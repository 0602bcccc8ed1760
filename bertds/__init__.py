"""Pre-training of BERT-like encoders on DeepSpeed, from raw text to a Hugging Face model."""
