"""Training a run: session, setup, loop, validation, fault tolerance."""
