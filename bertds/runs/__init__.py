"""A run directory: status, lock, settings, and opening a finished run."""
