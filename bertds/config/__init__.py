"""The case file: reading, patching and checking it."""
