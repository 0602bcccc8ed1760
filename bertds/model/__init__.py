"""The encoder with its masked language model head."""
