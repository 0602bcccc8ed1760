"""World, rendezvous, failure detection: what surrounds the process group."""
