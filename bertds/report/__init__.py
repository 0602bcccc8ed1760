"""Reports of finished and running experiments: tables, plots, HTML. Reads run directories only."""
