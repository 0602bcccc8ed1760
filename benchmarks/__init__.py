"""Benchmarks, determinism checks, fault injection and the reproduction of the reference experiments."""
