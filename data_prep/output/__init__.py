"""Output directories and URLs, and the manifest of what an output was made from."""
