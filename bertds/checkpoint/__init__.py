"""Checkpoints: their directory, their files, saving and loading."""
