"""Files: atomic writes, JSON, URLs."""
