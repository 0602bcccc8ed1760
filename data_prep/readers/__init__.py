"""Readers of the input formats (text, JSON lines, tar, Arrow, parquet, MDS) and text cleaning."""
