"""Reports of finished runs: tables, plots, HTML. Reads run directories only."""
