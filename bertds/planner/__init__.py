"""Resource estimates for a run before its job is queued."""
