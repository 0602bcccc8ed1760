"""Generates the sample corpus."""
