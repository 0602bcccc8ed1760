"""A case file: every key explained and checked, patched by arms and `--set`."""
