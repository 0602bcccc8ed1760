"""Executors of independent tasks: local processes or a Dask cluster."""
