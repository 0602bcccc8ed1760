"""The run directory: status, lock, changes of settings, and loading a trained run."""
