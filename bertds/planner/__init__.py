"""Resource estimates before a job is queued."""
