"""Where tasks run: local processes or a Dask cluster."""
