"""One encoder, chosen by fields, and the masked-language-model head on it."""
